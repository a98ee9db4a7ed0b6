"""When a dialer redials, in simulated time."""

from __future__ import annotations

import pytest

from tunnel.relay import backoff as module
from tunnel.relay.backoff import BURST, LONGEST_PAUSE, LONGEST_RESUME_PAUSE, RATE, STEADY, Backoff


class Simulation:
    """A dialer that follows its backoff. ``jitter`` is the smallest possible by default."""

    def __init__(self, jitter: float = 0.5) -> None:
        self.now = 1000.0
        self.attempts: list[float] = []
        self.backoff = Backoff(lambda: jitter)

    def dial(self, *, resuming: bool) -> float:
        """Wait for the backoff, and dial. Return the seconds waited."""
        pause = self.backoff.pause(self.now, resuming=resuming)
        self.now += pause
        self.attempts.append(self.now)
        return pause

    def fail(self, *, resuming: bool) -> float:
        waited = self.dial(resuming=resuming)
        self.backoff.failed(resuming=resuming)
        return waited

    def connect(self, *, resuming: bool, lasts: float) -> float:
        waited = self.dial(resuming=resuming)
        self.backoff.satisfied(self.now)
        self.now += lasts
        return waited


def test_first_attempt_and_the_first_after_each_loss_are_immediate() -> None:
    world = Simulation()
    assert world.connect(resuming=False, lasts=60) == 0
    for _ in range(100):
        assert world.connect(resuming=True, lasts=0.1) == 0
    assert world.connect(resuming=False, lasts=60) == 0, "a session that had lasted"


def test_a_hundred_cuts_in_four_seconds_are_each_replaced_immediately() -> None:
    world = Simulation()
    world.connect(resuming=False, lasts=1)
    assert [world.connect(resuming=True, lasts=0.04) for _ in range(100)] == pytest.approx([0.0] * 100)


@pytest.mark.parametrize("resuming", [True, False])
def test_pauses_grow_with_each_failure(resuming: bool) -> None:
    world = Simulation(jitter=1)
    waits = [world.fail(resuming=resuming) for _ in range(40)]
    assert waits[0] == 0
    assert waits[1:4] == pytest.approx([module.FIRST_PAUSE * factor for factor in (1, 2, 4)])
    assert waits == sorted(waits)
    assert waits[-1] == (LONGEST_RESUME_PAUSE if resuming else LONGEST_PAUSE)


def test_jitter_shortens_a_pause() -> None:
    world = Simulation(jitter=0.5)
    assert [world.fail(resuming=True) for _ in range(2)] == [0, module.FIRST_PAUSE / 2]


@pytest.mark.parametrize("resuming", [True, False])
def test_a_success_ends_the_pauses(resuming: bool) -> None:
    world = Simulation()
    for _ in range(20):
        world.fail(resuming=resuming)
    world.connect(resuming=resuming, lasts=STEADY)
    assert world.dial(resuming=True) == 0
    assert world.dial(resuming=False) == 0


def test_failures_to_begin_do_not_delay_a_resume() -> None:
    world = Simulation()
    for _ in range(20):
        world.fail(resuming=False)
    world.connect(resuming=False, lasts=0.1)
    assert world.dial(resuming=True) == 0


def test_link_lost_right_after_it_came_up_does_not_spin() -> None:
    """For a minute, each attempt succeeds and its session ends immediately."""
    world = Simulation()
    while world.now < 1060:
        world.connect(resuming=False, lasts=0)
    assert len(world.attempts) < 40
    late = [after - before for before, after in zip(world.attempts, world.attempts[1:], strict=False)][-5:]
    assert min(late) >= LONGEST_PAUSE / 2


def test_a_lane_lost_right_after_it_resumed_does_not_spin() -> None:
    world = Simulation()
    world.connect(resuming=False, lasts=60)
    until = world.now + 60
    while world.now < until:
        world.connect(resuming=True, lasts=0)
    assert len(world.attempts) <= 1 + BURST + 60 * RATE + 1


def test_a_session_that_the_peer_began_counts_as_one_of_ours() -> None:
    world = Simulation()
    for _ in range(20):
        world.fail(resuming=False)
    world.backoff.satisfied(world.now)
    world.now += STEADY
    assert world.dial(resuming=False) == 0

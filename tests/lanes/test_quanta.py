"""The read quantum, on a fake clock."""

from __future__ import annotations

import pytest

from tests.support.clock import Clock
from tunnel.lanes import quanta
from tunnel.lanes.quanta import LONGEST, MOST_FRAMES, SMALL_FRAME, WAIT, Turn
from tunnel.units import MIB


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quanta, "_loop", quanta._Loop())


def frames(turn: Turn, most: int = 10_000) -> int:
    """Process frames until the quantum is used up; return how many."""
    for taken in range(most):
        if turn.spent():
            return taken
    return most


def test_the_quantum_is_bounded_in_frames(clock: Clock) -> None:
    turn = Turn(clock)
    for _ in range(3):
        turn.begin()
        assert frames(turn) == MOST_FRAMES


def test_the_quantum_is_bounded_in_time_but_has_at_least_one_frame(clock: Clock) -> None:
    turn = Turn(clock)
    turn.begin()
    clock.now += LONGEST
    assert 1 <= frames(turn) < MOST_FRAMES


def test_before_the_first_begin_there_is_no_bound(clock: Clock) -> None:
    assert frames(Turn(clock)) == 10_000


def flood(turn: Turn, clock: Clock, seconds: float = 0.001, size: int = 20 * MOST_FRAMES) -> float:
    """Use up the quantum with tiny frames; return how long the lane has to wait."""
    turn.begin()
    frames(turn)
    turn.took(size)
    clock.now += seconds
    return turn.pause()


def test_a_lane_alone_does_not_wait(clock: Clock) -> None:
    turn = Turn(clock)
    for _ in range(5):
        assert flood(turn, clock) == 0.0


def test_its_own_sending_does_not_count_as_activity_of_others(clock: Clock) -> None:
    turn = Turn(clock)
    flood(turn, clock)
    turn.count()
    assert flood(turn, clock) == 0.0


@pytest.mark.parametrize("what", ["reads", "sends"])
def test_with_other_lanes_active_a_flood_waits_a_multiple_of_its_time(clock: Clock, what: str) -> None:
    turn, other = Turn(clock), Turn(clock)
    flood(turn, clock)
    other.begin() if what == "reads" else other.count()
    assert flood(turn, clock, 0.001) == pytest.approx(WAIT * 0.001)
    clock.now += WAIT * 0.001
    assert flood(turn, clock) == 0.0, "the other lane is not active any more"


def test_floods_of_several_lanes_wait_for_each_other(clock: Clock) -> None:
    one, two, other = Turn(clock), Turn(clock), Turn(clock)
    other.begin()
    first = flood(one, clock, 0.001)
    second = flood(two, clock, 0.001)
    assert first == pytest.approx(WAIT * 0.001)
    assert second == pytest.approx(2 * WAIT * 0.001 - 0.001)


def test_bulk_never_waits(clock: Clock) -> None:
    turn, other = Turn(clock), Turn(clock)
    for _ in range(3):
        other.begin()
        turn.begin()
        frames(turn, 34)
        turn.took(MIB)
        clock.now += 0.0005
        assert turn.pause() == 0.0


def test_large_frames_are_bounded_in_time_and_do_not_wait(clock: Clock) -> None:
    """On a slow machine, or after the process was not scheduled for a while."""
    turn, other = Turn(clock), Turn(clock)
    other.begin()
    turn.begin()
    clock.now += 1.0
    taken = frames(turn)
    turn.took((taken + 1) * SMALL_FRAME)
    assert turn.pause() == 0.0


def test_a_lane_is_alone_while_no_other_is_active(clock: Clock) -> None:
    one, two = Turn(clock), Turn(clock)
    one.alone()
    one.count()
    assert one.alone(), "its own activity does not count"
    two.begin()
    assert not one.alone()
    assert one.alone(), "no activity since the last call"

"""Liveness of the peer, by a clock that the test moves."""

from __future__ import annotations

import pytest

from tunnel.wire.frames import Ping, Pong
from tunnel.wire.keepalive import INTERVAL, LATE, TICK, TIMEOUT, Keepalive, aligned


def test_the_first_ping_is_due_immediately() -> None:
    """So that the round trip is known before the first bulk stream."""
    keepalive = Keepalive(100.0)
    assert keepalive.wake_at == 100.0
    assert keepalive.poll(100.0) == Ping(1)
    assert keepalive.poll(100.0) is None
    assert keepalive.wake_at == 100.0 + INTERVAL


def test_pings_follow_at_the_interval_each_with_its_own_token() -> None:
    keepalive = Keepalive(0.0)
    asked = [keepalive.poll(tick / 10) for tick in range(int(INTERVAL * 30) + 1)]
    assert [ping for ping in asked if ping is not None] == [Ping(1), Ping(2), Ping(3), Ping(4)]


def test_a_side_that_relies_on_the_pings_of_the_peer_sends_none_after_the_first_while_they_arrive() -> None:
    keepalive = Keepalive(0.0)
    assert keepalive.poll(0.0, relying=True) == Ping(1)
    for number in range(1, 4):
        keepalive.heard_at = number * INTERVAL - 0.1
        assert keepalive.poll(number * INTERVAL, relying=True) is None
        assert keepalive.wake_at == (number + 1) * INTERVAL
    assert keepalive.silence(4 * INTERVAL) < INTERVAL + LATE
    assert keepalive.poll(4 * INTERVAL, relying=True) is None, "the next one may be late"
    assert keepalive.poll(5 * INTERVAL, relying=True) == Ping(2)
    assert keepalive.poll(6 * INTERVAL, relying=False) == Ping(3)


def test_pauses_end_together() -> None:
    for clock in (1000.0, 1000.01, 1000.099):
        assert clock + aligned(5.0, clock) == pytest.approx(1005.0 if clock == 1000.0 else 1005.1)
    assert aligned(-1.0, 1000.05) == pytest.approx(0.05)
    assert all(5.0 <= aligned(5.0, 17.3 + part / 7) < 5.0 + 1.001 * TICK for part in range(100))


def test_a_late_poll_does_not_catch_up() -> None:
    keepalive = Keepalive(0.0)
    keepalive.poll(100.0)
    assert keepalive.poll(100.1) is None
    assert keepalive.poll(100.0 + INTERVAL) == Ping(2)


def test_the_answer_measures_the_round_trip() -> None:
    keepalive = Keepalive(0.0)
    assert keepalive.round_trip == 0.0
    keepalive.poll(1.0)
    keepalive.pong(Pong(1), 1.25)
    assert keepalive.round_trip == 0.25


def test_only_the_answer_to_the_last_ping_counts_and_once() -> None:
    keepalive = Keepalive(0.0)
    keepalive.poll(0.0)
    keepalive.poll(INTERVAL)
    for token in (1, 3, 2**64 - 1):  # old, unsolicited, unsolicited
        keepalive.pong(Pong(token), INTERVAL + 1)
    assert keepalive.round_trip == 0.0
    keepalive.pong(Pong(2), INTERVAL + 1)
    keepalive.pong(Pong(2), INTERVAL + 4)
    assert keepalive.round_trip == 1.0


def test_the_answer_to_a_later_ping_answers_those_before_it() -> None:
    """A peer answers the newest of the PINGs that arrived together."""
    keepalive = Keepalive(0.0)
    keepalive.poll(0.0)
    asked = keepalive.ask(1.0)
    assert asked == Ping(2)
    assert keepalive.wake_at == INTERVAL  # an additional one does not delay the periodic ones
    keepalive.pong(Pong(1), 1.5)
    assert keepalive.answered == 1 < asked.token
    keepalive.poll(INTERVAL)
    for token in (4, 2**64 - 1, 3, 2):  # unsolicited, unsolicited, the newest, late
        keepalive.pong(Pong(token), INTERVAL + 1)
    assert keepalive.answered == 3


def test_an_unsolicited_answer_is_ignored() -> None:
    keepalive = Keepalive(0.0)
    keepalive.pong(Pong(0), 3.0)
    assert keepalive.round_trip == 0.0


def test_silence_is_counted_from_the_last_byte() -> None:
    keepalive = Keepalive(0.0)
    assert not keepalive.silent(TIMEOUT - 0.001)
    assert keepalive.silent(TIMEOUT)
    keepalive.heard_at = TIMEOUT
    assert not keepalive.silent(2 * TIMEOUT - 0.001)
    assert keepalive.silent(2 * TIMEOUT)


def test_it_wakes_at_the_earlier_deadline() -> None:
    keepalive = Keepalive(0.0)
    for at in (0.0, INTERVAL, 2 * INTERVAL):
        keepalive.poll(at)
    assert keepalive.wake_at == TIMEOUT
    keepalive.heard_at = 2 * INTERVAL
    assert keepalive.wake_at == 3 * INTERVAL


def test_a_lane_times_out_after_several_unanswered_pings() -> None:
    assert TIMEOUT >= 2 * INTERVAL

"""Idle times of streams, in simulated time."""

from __future__ import annotations

from tunnel.relay.stream_timeouts import LEFT, StreamTimeouts


def test_idle_time_starts_at_the_last_byte() -> None:
    silence = StreamTimeouts()
    assert silence.observe(1, 10, 100) is None
    assert silence.observe(1, 10, 100 + LEFT) == LEFT
    assert silence.observe(1, 11, 200) is None, "it moved"
    assert silence.observe(1, 11, 200 + LEFT) == LEFT


def test_rate_of_checks_is_limited() -> None:
    silence = StreamTimeouts()
    looks = [silence.observe(1, 0, step * LEFT / 4) for step in range(9)]
    assert [look for look in looks if look is not None] == [LEFT, 2 * LEFT]


def test_idle_streams_are_listed_until_forgotten() -> None:
    silence = StreamTimeouts()
    silence.observe(1, 0, 0)
    silence.observe(2, 0, 5)
    assert silence.lasting(5, 9) == [1]
    assert silence.lasting(4, 9) == [1, 2]
    silence.forget(1)
    assert silence.lasting(4, 9) == [2]
    silence.forget(3)

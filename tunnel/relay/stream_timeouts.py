"""Idle times of streams, and their limits. No clock here: times are seconds."""

from __future__ import annotations

from dataclasses import dataclass

HALF_CLOSED = 600.0
"""Idle seconds after which a half-closed stream is reset."""

LEFT_UNDELIVERED = 60.0
"""The same if the local hypervisor closed its connection while bytes from it are pending at the peer."""

LEFT_IN_THE_WAY = 5.0
"""The same while another connection waits for a slot and none is free."""

RECLAIM_EVERY = 1.0
"""Interval in seconds at which such streams are looked for."""

LEFT = 2.0
"""Seconds after which a stream is closed whose local hypervisor closed its connection, once the peer has
delivered everything: the reverse direction has no receiver. Most targets close earlier."""

UNHEARD = 6.0
"""Idle seconds before a failed write is reported to the peer while bytes read before a clean close are not
delivered: longer than credit may take (SPEC.md, 6)."""

LAST_WORDS = 0.2
"""Idle seconds after which a reset is passed on, even if bytes before it are unread."""


@dataclass(slots=True)
class _Quiet:
    """The byte count of a stream, since when it has not changed, and when that was last reported."""

    moved: int
    since: float
    judged: float


class StreamTimeouts:
    """Tracks how long streams are idle."""

    def __init__(self) -> None:
        self._quiet: dict[int, _Quiet] = {}

    def observe(self, number: int, moved: int, now: float) -> float | None:
        """Return the idle seconds of a stream with byte count ``moved``, or None if no check is due."""
        quiet = self._quiet.get(number)
        if quiet is None or quiet.moved != moved:
            self._quiet[number] = _Quiet(moved, now, now)
            return None
        if now - quiet.judged < LEFT:
            return None
        quiet.judged = now
        return now - quiet.since

    def lasting(self, least: float, now: float) -> list[int]:
        """Return the streams observed to be idle for at least ``least`` seconds."""
        return [number for number, quiet in self._quiet.items() if now - quiet.since >= least]

    def forget(self, number: int) -> None:
        """Forget a stream that has ended."""
        self._quiet.pop(number, None)

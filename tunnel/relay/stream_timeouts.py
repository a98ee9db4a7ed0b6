"""How long streams have stood still, and how long they may. No clock of its own: times are seconds."""

from __future__ import annotations

from dataclasses import dataclass

HALF_CLOSED = 600.0
"""Seconds without a byte after which a half-closed stream is given up."""

LEFT_UNDELIVERED = 60.0
"""The same for a stream whose hypervisor here closed its connection, while bytes from it wait at the peer."""

LEFT_IN_THE_WAY = 5.0
"""The same while a connection waits for a place, of which there are no more."""

RECLAIM_EVERY = 1.0
"""Seconds between two looks for such streams."""

LEFT = 2.0
"""Seconds after which a stream is given up whose hypervisor here closed its connection, once the peer has all
of it: nobody takes what may come. Most far ends close by then."""

UNHEARD = 6.0
"""Seconds that a failed write is kept from the peer while nothing moves of what came before a clean close:
longer than credit may take (SPEC.md, 6)."""

LAST_WORDS = 0.2
"""Seconds that bytes which came before a reset may wait to be read. After that, the reset is passed on."""


@dataclass(slots=True)
class _Quiet:
    """How much a stream had moved, since when it has not moved again, and when that was last looked into."""

    moved: int
    since: float
    judged: float


class StreamTimeouts:
    """What is known of the streams that were seen to stand still."""

    def __init__(self) -> None:
        self._quiet: dict[int, _Quiet] = {}

    def observe(self, number: int, moved: int, now: float) -> float | None:
        """How long a stream that has ``moved`` so many bytes stands still, when that is to be looked into."""
        quiet = self._quiet.get(number)
        if quiet is None or quiet.moved != moved:
            self._quiet[number] = _Quiet(moved, now, now)
            return None
        if now - quiet.judged < LEFT:
            return None
        quiet.judged = now
        return now - quiet.since

    def lasting(self, least: float, now: float) -> list[int]:
        """The streams that stood still for that long, as far as was seen."""
        return [number for number, quiet in self._quiet.items() if now - quiet.since >= least]

    def forget(self, number: int) -> None:
        """The stream has ended."""
        self._quiet.pop(number, None)

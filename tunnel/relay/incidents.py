"""Incidents with one peer, for ``status``: counted, with a limit for each kind.

A repeated incident increments a count instead of adding an entry, and entries of one kind never evict those
of another: whatever a local user or a peer repeats, the reason for a lost lane is kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, overload

CALLER_REFUSED = "connection refused"
"""The kind that local clients can cause at will, and that never causes another incident."""

MOST_OF_A_KIND = 8
"""Different reasons kept for each kind; the oldest is evicted."""


@dataclass(slots=True)
class Incident:
    """An incident that happened ``count`` times. ``what`` is its kind, a fixed text.

    ``first`` and ``last`` are seconds since 1970; ``turn`` orders incidents by their last occurrence.
    ``code`` is the name of a protocol code, or "".
    """

    what: str
    reason: str
    first: float
    last: float
    turn: int
    code: str = ""
    count: int = 1

    def facts(self) -> dict[str, Any]:
        """Return a dict for ``status`` with stable keys. ``at`` is the last time, ``since`` the first."""
        return {
            "at": moment(self.last),
            "since": moment(self.first),
            "count": self.count,
            "what": self.what,
            "reason": self.reason,
            "code": self.code,
        }


class Incidents(Sequence[Incident]):
    """The incidents with one peer, in the order of their last occurrence."""

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[str, Incident]] = {}
        self._turn = 0

    def add(self, what: str, reason: str, code: str = "") -> None:
        """Count an incident that happened now."""
        present = now()
        self._turn += 1
        kind = self._kinds.setdefault(what, OrderedDict())
        if (known := kind.get(reason)) is not None:
            known.count += 1
            known.last, known.turn = present, self._turn
            kind.move_to_end(reason)
            return
        if len(kind) >= MOST_OF_A_KIND:
            kind.popitem(last=False)
        kind[reason] = Incident(what, reason, present, present, self._turn, code)

    def adopt(self, others: Incidents) -> None:
        """Add the incidents of a session that has ended."""
        for kind, known in list(others._kinds.items()):
            mine = self._kinds.setdefault(kind, OrderedDict())
            for incident in list(known.values()):
                self._turn += 1
                before = mine.pop(incident.reason, None)
                count = incident.count + (before.count if before is not None else 0)
                first = before.first if before is not None else incident.first
                mine[incident.reason] = replace(incident, count=count, first=first, turn=self._turn)
            while len(mine) > MOST_OF_A_KIND:
                mine.popitem(last=False)

    def cause(self) -> str | None:
        """Return the last reason that concerns the link itself, not a local client."""
        return next((each.reason for each in reversed(self) if each.what != CALLER_REFUSED), None)

    def _ordered(self) -> list[Incident]:
        found = [incident for kind in self._kinds.values() for incident in kind.values()]
        return sorted(found, key=lambda incident: incident.turn)

    @overload
    def __getitem__(self, index: int) -> Incident: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Incident]: ...

    def __getitem__(self, index: int | slice) -> Incident | Sequence[Incident]:
        return self._ordered()[index]

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))


def now() -> float:
    """Return the wall-clock time in seconds since 1970."""
    return time.time()  # noqa: TID251  as above


def moment(seconds: float) -> str:
    """Format a time as ISO 8601, UTC, with milliseconds: such texts sort by time."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

"""What went wrong with a peer, for ``status``: counted, and bounded for each kind.

The same thing happening again is a count, not another entry; and the entries of one kind never push out those
of another: whatever a local user or a peer repeats, the reason why a lane was lost stays.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, overload

CALLER_REFUSED = "connection refused"
"""The kind of which others cause as many as they like, and which is never the reason for another."""

MOST_OF_A_KIND = 8
"""Different reasons that are remembered of each kind; the one that is oldest makes room."""


@dataclass(slots=True)
class Incident:
    """``what`` is its kind, one of the program's own words. It happened ``count`` times.

    ``first`` and ``last`` are seconds since 1970; ``turn`` orders the incidents by when they happened last.
    ``code`` is the name of the protocol's code, where there is one.
    """

    what: str
    reason: str
    first: float
    last: float
    turn: int
    code: str = ""
    count: int = 1

    def facts(self) -> dict[str, Any]:
        """For ``status``; the keys are stable. ``at`` is the last time, ``since`` the first (ISO 8601)."""
        return {
            "at": moment(self.last),
            "since": moment(self.first),
            "count": self.count,
            "what": self.what,
            "reason": self.reason,
            "code": self.code,
        }


class Incidents(Sequence[Incident]):
    """In the order in which they happened last."""

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[str, Incident]] = {}
        self._turn = 0

    def add(self, what: str, reason: str, code: str = "") -> None:
        """Count something that happened just now."""
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
        """Take in what happened to a session that is no more."""
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
        """The last reason that concerns the link itself, and not one of its callers."""
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
    """Seconds since 1970: a point in time, for people."""
    return time.time()  # noqa: TID251  as above


def moment(seconds: float) -> str:
    """A point in time in ISO 8601, UTC, milliseconds: as texts they are in the order of time."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

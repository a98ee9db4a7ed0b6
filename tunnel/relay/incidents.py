"""Incidents with one peer, for ``status``: counted, with a limit for each kind.

A repeated incident increments a count instead of adding an entry, and entries of one kind never evict those
of another: whatever a local user or a peer repeats, the reason for a lost lane is kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import overload

from tunnel.relay.status_schema import IncidentStatus


class IncidentKind(StrEnum):
    """The kind of an incident. Programs compare its name; its value is text, the event in the log."""

    CANNOT_CONNECT = "cannot connect"
    SMALLER_SEGMENTS = "smaller segments"
    LANE_REJECTED = "lane rejected"
    DUPLICATE_HOST = "two daemons of one name"
    LANE_LOST = "lane lost"
    LANE_NOT_REPLACED = "lane not replaced"
    LINK_RESUMED = "link resumed"
    LINK_DOWN = "link down"
    NO_FURTHER_SESSION = "no further session"
    TOLD_BY_PEER = "told by the peer"
    STREAM_REFUSED = "stream refused"
    STREAM_REFUSED_BY_PEER = "stream refused by the peer"
    STREAM_RESET = "stream reset"
    STREAM_RESET_BY_PEER = "stream reset by the peer"
    STREAM_LIMIT_REACHED = "stream limit reached"
    CALLER_REFUSED = "connection refused"
    """Local clients can cause it at will; it never causes another incident."""


NONE: Mapping[str, object] = {}
"""No details."""

MOST_OF_A_KIND = 8
"""Different reasons kept for each kind; the oldest is evicted."""


@dataclass(slots=True)
class Incident:
    """An incident that happened ``count`` times.

    ``first`` and ``last`` are seconds since 1970; ``turn`` orders incidents by their last occurrence.
    ``code`` is the name of a protocol code, or ""; ``uid`` the local client's user at the last one, if any.
    """

    kind: IncidentKind
    reason: str
    first: float
    last: float
    turn: int
    code: str = ""
    uid: int | None = None
    count: int = 1

    def facts(self) -> IncidentStatus:
        """Return its entry in ``status``."""
        return {
            "at": moment(self.last),
            "since": moment(self.first),
            "count": self.count,
            "kind": self.kind.name,
            "what": self.kind.value,
            "reason": self.reason,
            "code": self.code,
            "uid": self.uid,
        }


class Incidents(Sequence[Incident]):
    """The incidents with one peer, in the order of their last occurrence."""

    def __init__(self) -> None:
        self._kinds: dict[IncidentKind, OrderedDict[str, Incident]] = {}
        self._turn = 0

    def add(self, kind: IncidentKind, reason: str, details: Mapping[str, object] = NONE) -> None:
        """Count an incident that happened now. Of its ``details`` the ``code`` and the ``uid`` are kept."""
        present, code, user = now(), str(details.get("code", "")), details.get("uid")
        uid = user if isinstance(user, int) else None
        self._turn += 1
        alike = self._kinds.setdefault(kind, OrderedDict())
        if (known := alike.get(reason)) is not None:
            known.count += 1
            known.last, known.turn, known.uid = present, self._turn, uid
            alike.move_to_end(reason)
            return
        if len(alike) >= MOST_OF_A_KIND:
            alike.popitem(last=False)
        alike[reason] = Incident(kind, reason, present, present, self._turn, code, uid)

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
        own = (each for each in reversed(self) if each.kind is not IncidentKind.CALLER_REFUSED)
        return next((each.reason for each in own), None)

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

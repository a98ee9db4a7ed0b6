"""Admission control for unauthenticated connections: by source, limited in number, rate and time.

Clients without a certificate must not use up the slots of peers, nor the time of the event loop:

- A full table makes room: it drops the oldest connection of the source that has the most. A peer that
  connects while strangers fill the table is authenticated before it becomes the oldest.
- Each source has a rate, and all strangers share another. Excess connections are refused unread.
- Sources of configured peers have a table and rates of their own, the highest while a peer lacks a lane. That
  one is limited by how often the peer's certificate was verified: strangers cannot use it up, and a peer
  cannot use it to keep this host busy. While other peers have lanes its long-term rate is lower.

No clock and no sockets here: times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from tunnel.net.token_bucket import Bucket, Rate

MOST_STRANGERS = 64
"""Most unauthenticated connections from addresses that belong to no peer."""

LEAST_KNOWN = 64
"""Most of those from addresses of configured peers, or two for each peer if that is more."""

HASTE = 3.0
"""Seconds until a connection may be dropped if its table is half full; else the handshake timeout applies."""

STRANGER = Rate(32, 5)
STRANGERS = Rate(128, 25)
KNOWN = Rate(64, 5)
EXPECTED = Rate(256, 250)
BESIDE = Rate(64, 20)
PROOFS = Rate(80, 8)
"""Connections of one stranger, of all strangers, of a peer, of a peer that lacks a lane, of such a peer while
others have lanes; then authentications of one peer: with a stranger's rate added, enough for any dialer."""

MOST_SOURCES = 4096
"""Sources whose rate is tracked; full buckets are discarded first."""


class SourceClass(Enum):
    """Class of a source before authentication."""

    STRANGER = "stranger"
    KNOWN = "known"
    EXPECTED = "expected"
    BESIDE = "expected beside others"


_RATES = {
    SourceClass.STRANGER: STRANGER,
    SourceClass.KNOWN: KNOWN,
    SourceClass.EXPECTED: EXPECTED,
    SourceClass.BESIDE: BESIDE,
}


@dataclass(frozen=True, slots=True, eq=False)
class AdmissionSlot:
    """The slot of one connection until it is authenticated or closed."""

    source: str
    standing: SourceClass
    since: float


class Table:
    """A table of at most ``most`` slots."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[AdmissionSlot, None] = {}  # oldest first
        self._counts: Counter[str] = Counter()  # by source

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: AdmissionSlot, now: float) -> list[AdmissionSlot]:
        """Add a slot. Return the slots that were removed to make room for it."""
        gone = self._late(now) if len(self._places) >= self._most // 2 else []
        for late in gone:
            self.remove(late)
        if len(self._places) >= self._most:
            gone.append(self._oldest(max(self._counts.values())))
            self.remove(gone[-1])
        self._places[place] = None
        self._counts[place.source] += 1
        return gone

    def remove(self, place: AdmissionSlot) -> None:
        """Remove a slot if it is there."""
        if place in self._places:
            del self._places[place]
            self._counts[place.source] -= 1
            if not self._counts[place.source]:
                del self._counts[place.source]

    def _late(self, now: float) -> list[AdmissionSlot]:
        late = []
        for place in self._places:
            if now - place.since < HASTE:
                break
            late.append(place)
        return late

    def _oldest(self, count: int) -> AdmissionSlot:
        """Return the oldest slot of a source that has ``count`` slots."""
        return next(place for place in self._places if self._counts[place.source] == count)


class Admission:
    """Per-source limits on unauthenticated connections. ``peers``: how many are configured."""

    def __init__(self, peers: int, now: float) -> None:
        self._strangers = Table(MOST_STRANGERS)
        self._known = Table(max(LEAST_KNOWN, 2 * peers))
        self._sources: dict[tuple[str, SourceClass], Bucket] = {}
        self._together = Bucket(STRANGERS, now)
        self._proofs: dict[str, Bucket] = {}  # by peer

    def __len__(self) -> int:
        """The number of unauthenticated connections."""
        return len(self._strangers) + len(self._known)

    def admit(
        self, source: str, standing: SourceClass, now: float
    ) -> tuple[AdmissionSlot | None, list[AdmissionSlot]]:
        """Return a slot for a new connection, or None if its source exceeds its rate.

        Also returns the slots that were removed to make room for it.
        """
        if not self._bucket(source, standing, now).take(now):
            return None, []
        if standing is SourceClass.STRANGER and not self._together.take(now):
            return None, []
        place = AdmissionSlot(source, standing, now)
        return place, self._table(standing).add(place, now)

    def proved(self, place: AdmissionSlot, peer: str, now: float) -> None:
        """Free the slot of an authenticated connection, and refund its rate unless that is too often."""
        self.leave(place)
        if self._proofs.setdefault(peer, Bucket(PROOFS, now)).take(now):
            self._bucket(place.source, place.standing, now).give_back()
            if place.standing is SourceClass.STRANGER:
                self._together.give_back()

    def may_expect(self, peer: str, now: float) -> bool:
        """Whether a peer that lacks a lane gets the higher rate: not if it has authenticated too often."""
        bucket = self._proofs.get(peer)
        return bucket is None or bucket.has(now)

    def leave(self, place: AdmissionSlot) -> None:
        """Free the slot: the connection has ended or is authenticated. Idempotent."""
        self._table(place.standing).remove(place)

    def _table(self, standing: SourceClass) -> Table:
        return self._strangers if standing is SourceClass.STRANGER else self._known

    def _bucket(self, source: str, standing: SourceClass, now: float) -> Bucket:
        key = source, standing
        if (bucket := self._sources.get(key)) is None:
            if len(self._sources) >= MOST_SOURCES:
                self._forget(now)
            bucket = self._sources[key] = Bucket(_RATES[standing], now)
        return bucket

    def _forget(self, now: float) -> None:
        """Discard idle sources, or all if most are busy: the rate shared by strangers still holds."""
        kept = {key: bucket for key, bucket in self._sources.items() if not bucket.full(now)}
        self._sources = kept if len(kept) < MOST_SOURCES else {}

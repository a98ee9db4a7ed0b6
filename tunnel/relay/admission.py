"""Which connections may try to prove that they are a peer's: bounded in number, rate and time, by source.

Whoever has no certificate must neither take the places of those who have, nor the time of the loop. So

- a full table makes room: the oldest connection of the source that has the most is given up. A peer that
  comes while a stranger fills the table is through before its turn to go has come;
- each source has a rate, and strangers have one together. What is beyond it is refused unread;
- sources of configured peers have a table and rates of their own, the highest while a peer lacks a lane. That
  one is for as long as the peer's certificate was not shown too often: strangers cannot use it up, and a
  peer cannot use it to busy us. While other peers have lanes it is lower in the long run, for their sake.

There is no clock and no socket here: times are seconds of any clock that never goes back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from tunnel.net.token_bucket import Bucket, Rate

MOST_STRANGERS = 64
"""Connections from addresses of nobody that may be between accept and proof."""

LEAST_KNOWN = 64
"""As many, at least, from addresses of configured peers; or two for each peer."""

HASTE = 3.0
"""Seconds that a connection has while more than half of a table is taken; otherwise the handshake's own."""

STRANGER = Rate(32, 5)
STRANGERS = Rate(128, 25)
KNOWN = Rate(64, 5)
EXPECTED = Rate(256, 250)
BESIDE = Rate(64, 20)
PROOFS = Rate(80, 8)
"""Of connections: one stranger's, all strangers', a peer's, one that lacks a lane, the same while other peers
have some; and of a peer's proofs: with a stranger's rate on top, no less than a dialer makes."""

MOST_SOURCES = 4096
"""Sources whose rate is remembered; full buckets are forgotten first."""


class SourceClass(Enum):
    """What is known of a source before a connection from it has proven anything."""

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
    """One connection's, until it has proven to be a peer's, or ended."""

    source: str
    standing: SourceClass
    since: float


class Table:
    """Places of one kind, of which there are ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[AdmissionSlot, None] = {}  # oldest first
        self._counts: Counter[str] = Counter()  # by source

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: AdmissionSlot, now: float) -> list[AdmissionSlot]:
        """Take it in; the places that have to go for it, which are taken out."""
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
        """It is over, if it was not before."""
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
        """The oldest place of a source that has ``count``."""
        return next(place for place in self._places if self._counts[place.source] == count)


class Admission:
    """See the module. ``peers``: how many are configured."""

    def __init__(self, peers: int, now: float) -> None:
        self._strangers = Table(MOST_STRANGERS)
        self._known = Table(max(LEAST_KNOWN, 2 * peers))
        self._sources: dict[tuple[str, SourceClass], Bucket] = {}
        self._together = Bucket(STRANGERS, now)
        self._proofs: dict[str, Bucket] = {}  # by peer

    def __len__(self) -> int:
        """Connections that have proven nothing yet."""
        return len(self._strangers) + len(self._known)

    def admit(
        self, source: str, standing: SourceClass, now: float
    ) -> tuple[AdmissionSlot | None, list[AdmissionSlot]]:
        """Give a new connection a place, or None when there were too many from its source lately.

        Returns as well the places of those that have to go for it: they are taken away already.
        """
        if not self._bucket(source, standing, now).take(now):
            return None, []
        if standing is SourceClass.STRANGER and not self._together.take(now):
            return None, []
        place = AdmissionSlot(source, standing, now)
        return place, self._table(standing).add(place, now)

    def proved(self, place: AdmissionSlot, peer: str, now: float) -> None:
        """The connection is a peer's: what it took of its source's rate is given back, if not too often."""
        self.leave(place)
        if self._proofs.setdefault(peer, Bucket(PROOFS, now)).take(now):
            self._bucket(place.source, place.standing, now).give_back()
            if place.standing is SourceClass.STRANGER:
                self._together.give_back()

    def may_expect(self, peer: str, now: float) -> bool:
        """Whether a peer without a lane is to be met halfway: not one that has come too often lately."""
        bucket = self._proofs.get(peer)
        return bucket is None or bucket.has(now)

    def leave(self, place: AdmissionSlot) -> None:
        """The connection has ended, or is known; may be called again, to no effect."""
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
        """Forget who did not come for a while; or everybody, as a rate for all strangers remains."""
        kept = {key: bucket for key, bucket in self._sources.items() if not bucket.full(now)}
        self._sources = kept if len(kept) < MOST_SOURCES else {}

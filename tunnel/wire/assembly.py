"""Putting a stream's bytes in order: duplicates from a replay dropped, gaps between lanes waited for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sized
from dataclasses import dataclass
from typing import TypeAlias

Payload: TypeAlias = Sized
"""Bytes, or a promise of bytes: the core only ever asks for its length."""


@dataclass(slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` of a payload. Not to be changed; frozen ones cost three times as much."""

    payload: Payload
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Assembly:
    """One stream's incoming direction. ``received`` counts the bytes that came without a gap."""

    def __init__(self) -> None:
        self.received = 0
        # (start, end, payload) of what waits for a gap: both starts and ends ascend, and no piece is covered
        # by the two beside it. So however pieces overlap, no byte is held more than twice.
        self._held: list[tuple[int, int, Payload]] = []

    @property
    def held(self) -> int:
        """How many pieces wait for a gap."""
        return len(self._held)

    @property
    def highest(self) -> int:
        """One more than the highest offset seen, gaps or not."""
        return self._held[-1][1] if self._held else self.received

    def insert(self, offset: int, payload: Payload) -> list[Piece]:
        """Return what is now in order, oldest first; [] for a duplicate, or while a gap is open."""
        if offset == self.received and not self._held:
            self.received += len(payload)
            return [Piece(payload, 0, len(payload))]
        if offset > self.received:
            self._hold(offset, payload)
            return []
        pieces = self._append(offset, payload)
        ready = 0
        while ready < len(self._held) and self._held[ready][0] <= self.received:
            start, _, held = self._held[ready]
            pieces += self._append(start, held)
            ready += 1
        del self._held[:ready]
        return pieces

    def _append(self, offset: int, payload: Payload) -> list[Piece]:
        end = offset + len(payload)
        if end <= self.received:
            return []
        piece = Piece(payload, self.received - offset, len(payload))
        self.received = end
        return [piece]

    def _hold(self, start: int, payload: Payload) -> None:
        """Keep a piece unless others cover it, and let go of those that it makes needless."""
        held, end = self._held, start + len(payload)
        first = last = bisect_left(held, (start,))
        while last < len(held) and held[last][1] <= end:  # inside the new one
            last += 1
        before = held[first - 1][1] if first else 0
        after = held[last][0] if last < len(held) else end
        if before >= end or after <= max(start, before):
            return
        if first >= 2 and held[first - 2][1] >= start:
            first -= 1
        if last + 1 < len(held) and held[last + 1][0] <= end:
            last += 1
        held[first:last] = [(start, end, payload)]

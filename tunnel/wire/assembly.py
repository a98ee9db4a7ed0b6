"""Putting a stream's bytes in order: duplicates from a replay dropped, gaps between lanes waited for."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sized
from dataclasses import dataclass
from typing import TypeAlias

from tunnel.errors import ProtocolError
from tunnel.wire.codes import Code

Payload: TypeAlias = Sized
"""Bytes, or a promise of bytes: the core only ever asks for its length."""

MAX_HELD = 1024
"""Most pieces that wait for a gap, per stream; a peer that cuts finer than this is at fault."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` of a payload."""

    payload: Payload
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Assembly:
    """One stream's incoming direction. ``received`` counts the bytes that came without a gap."""

    def __init__(self) -> None:
        self.received = 0
        self._held: list[tuple[int, int, Payload]] = []  # (offset, tie-breaker, payload), by offset

    @property
    def highest(self) -> int:
        """One more than the highest offset seen, gaps or not."""
        return max([self.received, *(offset + len(payload) for offset, _, payload in self._held)])

    def insert(self, offset: int, payload: Payload) -> list[Piece]:
        """Return what is now in order, oldest first; [] for a duplicate, or while a gap is open.

        Raises ProtocolError when too many pieces wait for gaps.
        """
        if offset > self.received:
            self._hold(offset, payload)
            return []
        pieces = self._append(offset, payload)
        while self._held and self._held[0][0] <= self.received:
            held_offset, _, held = self._held.pop(0)
            pieces += self._append(held_offset, held)
        return pieces

    def _append(self, offset: int, payload: Payload) -> list[Piece]:
        end = offset + len(payload)
        if end <= self.received:
            return []
        piece = Piece(payload, self.received - offset, len(payload))
        self.received = end
        return [piece]

    def _hold(self, offset: int, payload: Payload) -> None:
        if len(self._held) >= MAX_HELD:
            raise ProtocolError(
                Code.FLOW_CONTROL, f"more than {MAX_HELD} pieces of a stream are out of order"
            )
        end = offset + len(payload)
        if any(start <= offset and end <= start + len(held) for start, _, held in self._held):
            return
        insort(self._held, (offset, len(self._held), payload), key=lambda entry: entry[0])

"""Reassembly of a stream: duplicates from a replay are dropped, data after a gap is buffered.

Early data is copied into memory, and the window bounds its bytes. It must bound the memory as well, whatever
the size of the pieces: two honest hosts, one of whose lanes is stalled, may have as many tiny ones in flight
as the window allows. So pieces of a page and more are buffered whole, an object for each, and smaller ones
are collected in pages.
"""

from __future__ import annotations

from bisect import bisect_left

from tunnel.units import KIB
from tunnel.wire.payload import Payload, Piece, copied

PAGE = 4 * KIB
"""Bytes of a page. A smaller piece that arrives early is stored in the one or two pages that it lies in."""


class _Page:
    """One page, of which some bytes are present."""

    __slots__ = ("_data", "_there")

    def __init__(self) -> None:
        self._data = bytearray(PAGE)
        self._there = 0  # one bit per byte

    def put(self, at: int, data: bytes) -> None:
        """Store ``data`` from ``at`` on."""
        self._data[at : at + len(data)] = data
        self._there |= ((1 << len(data)) - 1) << at

    def run(self, at: int) -> bytes:
        """Return the bytes from ``at`` on, up to the next gap."""
        rest = self._there >> at
        count = (~rest & (rest + 1)).bit_length() - 1  # trailing ones
        return memoryview(self._data)[at : at + count].tobytes()


class ReassemblyBuffer:
    """One stream's receiving direction. ``received`` counts the bytes received without a gap."""

    def __init__(self) -> None:
        self.received = 0
        self.early = 0
        """One more than the highest offset that arrived early: above ``received`` while there is a gap."""
        # (start, end, payload) of data after a gap: both starts and ends ascend, and no piece is covered by
        # its two neighbours. So however pieces overlap, no byte is buffered more than twice here.
        self._held: list[tuple[int, int, bytes]] = []
        self._pages: dict[int, _Page] = {}  # once more here, if it also arrived in a small piece

    @property
    def held(self) -> int:
        """Bytes of memory buffered after a gap, but for a constant per page and per larger piece."""
        return sum(end - start for start, end, _ in self._held) + PAGE * len(self._pages)

    @property
    def highest(self) -> int:
        """One more than the highest offset received, with gaps or without."""
        return max(self.early, self.received)

    def insert(self, offset: int, payload: Payload) -> list[Piece]:
        """Return what is now in order, oldest first; [] for a duplicate, or while there is a gap."""
        if offset > self.received:
            self._put_by(offset, copied(payload))
            return []
        pieces = self._append(offset, payload)
        while more := self._take_held() + self._take_page():
            pieces += more
        return pieces

    def _append(self, offset: int, payload: Payload) -> list[Piece]:
        end = offset + len(payload)
        if end <= self.received:
            return []
        piece = Piece(payload, self.received - offset, len(payload))
        self._advance(end)
        return [piece]

    def _advance(self, end: int) -> None:
        """Everything before ``end`` is received: drop the pages before it."""
        if end >= self.early:
            self._pages.clear()
        elif self._pages:
            for page in range(self.received // PAGE, end // PAGE):
                self._pages.pop(page, None)
        self.received = end

    def _take_held(self) -> list[Piece]:
        pieces: list[Piece] = []
        ready = 0
        while ready < len(self._held) and self._held[ready][0] <= self.received:
            start, _, held = self._held[ready]
            pieces += self._append(start, held)
            ready += 1
        del self._held[:ready]
        return pieces

    def _take_page(self) -> list[Piece]:
        number, at = divmod(self.received, PAGE)
        page = self._pages.get(number)
        return self._append(self.received, page.run(at)) if page is not None else []

    # Early data.

    def _put_by(self, start: int, data: bytes) -> None:
        self.early = max(self.early, start + len(data))
        if len(data) >= PAGE:
            self._hold(start, data)
            return
        number, at = divmod(start, PAGE)
        room = PAGE - at
        self._page(number).put(at, data[:room])
        if len(data) > room:
            self._page(number + 1).put(0, data[room:])

    def _page(self, number: int) -> _Page:
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = _Page()
        return page

    def _hold(self, start: int, payload: bytes) -> None:
        """Buffer a piece unless others cover it, and drop those that it makes redundant."""
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

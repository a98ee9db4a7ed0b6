"""A LIFO pool of buffers for payload that is read in bulk and kept until it is delivered.

The buffer released last is still in a CPU cache, unlike memory from malloc or a ring buffer. A slab is reused
only when no view of it is left: until then its bytearray cannot be resized.
"""

from __future__ import annotations

from collections import deque

from tunnel.units import KIB
from tunnel.wire.codes import MAX_DATA

SIZE = MAX_DATA
"""Bytes of a slab: the maximum of a frame."""

MOST_SPARE = 16
"""Maximum number of pooled slabs; more are freed."""

LEAST = 64 * KIB
"""Minimum bytes of a piece of a slab; fewer are copied and pin nothing."""

_spare: list[bytearray] = []
_NONE = memoryview(b"")


def take_slab() -> bytearray:
    """Return ``SIZE`` bytes of memory without other references."""
    try:
        return _spare.pop()  # another worker's thread may have taken the last one
    except IndexError:
        return bytearray(SIZE)


def give_back(slab: bytearray) -> None:
    """Return ``slab`` to the pool, unless there is a view of it."""
    if len(_spare) < MOST_SPARE:
        try:
            slab.append(slab.pop())
        except BufferError:
            return
        _spare.append(slab)


class ReadBuffers:
    """The read buffers of one stream: consecutive pieces of slabs.

    In addition to what the stream keeps, up to one slab at each end is pinned; if it keeps nothing, none is.
    ``least`` is the minimum room for a read, in bytes.
    """

    __slots__ = ("_ahead", "_bulk", "_ends", "_free", "_least", "_lent", "_slabs")

    def __init__(self, least: int) -> None:
        self._least = least
        self._slabs: deque[bytearray] = deque()  # with undelivered pieces; the current one last
        self._ends: deque[int] = deque()  # stream offset where the last piece of each ends
        self._free = _NONE  # the free rest of the current one
        self._lent: list[memoryview] = []  # returned by the last ``rooms``
        self._ahead: list[bytearray] = []  # their slabs, except that of the first
        self._bulk = False  # the last read was large

    def rooms(self, limit: int) -> list[memoryview]:
        """Return buffers for at most ``limit`` bytes in all; read into them, then call ``pieces``."""
        lent = self._lent
        lent.append(self.room(limit))
        left = limit - len(lent[0])
        while left >= self._least and self._bulk:
            slab = take_slab()
            self._ahead.append(slab)
            lent.append(memoryview(slab)[:left])
            left -= len(lent[-1])
        return lent

    def pieces(self, count: int, end: int) -> list[bytes | memoryview]:
        """Return what was read into all rooms, like ``take``; there must be no other view of them."""
        sizes, ahead = list(map(len, self._lent)), self._ahead
        self._lent, self._ahead = [], []
        self._bulk = count >= self._least
        offset, pieces = end - count, []
        for number, size in enumerate(sizes):
            part = min(size, end - offset)
            if number and part:
                self._present(ahead[number - 1])
            elif number:
                give_back(ahead[number - 1])
            if part or not number:
                offset += part
                pieces.append(self.take(part, offset))
        return pieces if count else []

    def _present(self, slab: bytearray) -> None:
        self._slabs.append(slab)
        self._ends.append(0)
        self._free = memoryview(slab)

    def room(self, limit: int) -> memoryview:
        """Return a buffer for at most ``limit`` bytes; read into it, then call ``take``."""
        if len(self._free) < min(limit, self._least):
            self._present(take_slab())
        return self._free[:limit]

    def take(self, count: int, end: int) -> bytes | memoryview:
        """Return the ``count`` bytes read, up to stream offset ``end``; the caller owns them."""
        piece: bytes | memoryview = self._free[:count]
        if count < LEAST:
            piece = bytes(piece)
            self.release(0)
        else:
            self._free = self._free[count:]
            self._ends[-1] = end
        return piece

    def release(self, offset: int) -> None:
        """Release everything before ``offset`` of the stream, which is delivered."""
        while self._slabs and self._ends[0] <= offset:
            if len(self._slabs) == 1:
                self._free = _NONE
            self._ends.popleft()
            give_back(self._slabs.popleft())

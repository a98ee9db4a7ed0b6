"""Memory for what is read in bulk and kept until it is delivered: what was given up last is used again first.

That is still in a cache, as memory of malloc's heap or of a ring would not be. A slab is used again only when
no view of it is left, whoever had one: a bytearray says so itself, as it cannot be resized before.
"""

from __future__ import annotations

from collections import deque

from tunnel.units import KIB
from tunnel.wire.codes import MAX_DATA

SIZE = MAX_DATA
"""Bytes of a slab: the most of a frame."""

MOST_SPARE = 16
"""Slabs that wait to be used again; more are given back to malloc."""

LEAST = 64 * KIB
"""A piece of a slab has so many bytes at least; fewer are copied, and pin nothing."""

_spare: list[bytearray] = []
_NONE = memoryview(b"")


def take_slab() -> bytearray:
    """Return ``SIZE`` bytes of memory to which nobody else refers."""
    try:
        return _spare.pop()  # of which another worker's thread may have taken the last
    except IndexError:
        return bytearray(SIZE)


def give_back(slab: bytearray) -> None:
    """Let it be used again, unless there is a view of it."""
    if len(_spare) < MOST_SPARE:
        try:
            slab.append(slab.pop())
        except BufferError:
            return
        _spare.append(slab)


class ReadBuffers:
    """Where one stream reads to, piece behind piece of a slab, then of the next.

    Of all that its stream keeps, up to one slab at each end is pinned beside it; without any, none is.
    ``least`` is how many bytes a read should have room for.
    """

    __slots__ = ("_ahead", "_bulk", "_ends", "_free", "_least", "_lent", "_slabs")

    def __init__(self, least: int) -> None:
        self._least = least
        self._slabs: deque[bytearray] = deque()  # with pieces that are not delivered; last the present one
        self._ends: deque[int] = deque()  # where in the stream the last piece of each ends
        self._free = _NONE  # what is left of the present one
        self._lent: list[memoryview] = []  # what ``rooms`` said last
        self._ahead: list[bytearray] = []  # slabs of which these are, but the first of them
        self._bulk = False  # the last time brought much

    def rooms(self, limit: int) -> list[memoryview]:
        """Return memory for ``limit`` bytes in parts, or less: to be read into, and then call ``pieces``."""
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
        """Return what was read, as ``take`` does, of all rooms together; nobody else has a view of them."""
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
        """Return memory for ``limit`` bytes, or fewer: to be read into, and then ``take`` is to be called."""
        if len(self._free) < min(limit, self._least):
            self._present(take_slab())
        return self._free[:limit]

    def take(self, count: int, end: int) -> bytes | memoryview:
        """Return what was read, ``count`` bytes of the stream before ``end``: the caller's from now on."""
        piece: bytes | memoryview = self._free[:count]
        if count < LEAST:
            piece = bytes(piece)
            self.release(0)
        else:
            self._free = self._free[count:]
            self._ends[-1] = end
        return piece

    def release(self, offset: int) -> None:
        """Everything before ``offset`` of the stream is delivered, and nobody needs it any more."""
        while self._slabs and self._ends[0] <= offset:
            if len(self._slabs) == 1:
                self._free = _NONE
            self._ends.popleft()
            give_back(self._slabs.popleft())

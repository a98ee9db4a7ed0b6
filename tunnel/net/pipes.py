"""Pipes as kernel buffers: ``splice`` and ``tee`` move references to pages between them.

A pipe has a number of *slots*, with a page or a part of one in each, of 4 KiB to 32 KiB as the network stack
made them, or a single byte. So what fits is known only by trying: each function moves as much as fits, and
returns how much that was. Nothing here blocks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections import deque
from functools import cache

from tunnel.units import MIB

SIZE = MIB
"""Size of one frame's pipe in bytes, 4 KiB per slot. More needs privileges (fs.pipe-max-size)."""

MOST_SPARE = 32

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_MORE = _FLAGS | os.SPLICE_F_MORE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


class Pipe:
    """A non-blocking pipe, closed with its last reference. Raises OSError when descriptors run out."""

    __slots__ = ("_size", "sink", "source")

    def __init__(self, size: int = SIZE) -> None:
        self.source = self.sink = -1
        _nowhere()  # for ``discard``, which must not fail
        self.source, self.sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._size = fcntl.fcntl(self.sink, fcntl.F_GETPIPE_SZ)
        self.grow(size)

    @property
    def size(self) -> int:
        """Its capacity in bytes if all slots hold full pages."""
        return self._size

    def grow(self, size: int) -> bool:
        """Enlarge the pipe, data in it included; False when the kernel refuses, or it is not smaller."""
        if size <= self._size:
            return False
        try:
            self._size = fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, size)
        except OSError:  # more than fs.pipe-max-size, or than fs.pipe-user-pages-soft for this user
            return False
        return True

    def fill(self, descriptor: int, most: int) -> int:
        """Splice from a socket; 0 at its end. BlockingIOError: no data, or no free slot."""
        return os.splice(descriptor, self.sink, most, flags=_FLAGS)

    def empty(self, descriptor: int, most: int, *, more: bool = False) -> int:
        """Splice to a socket, a pipe or a file; ``more``: more follows (SPLICE_F_MORE)."""
        return os.splice(self.source, descriptor, most, flags=_MORE if more else _FLAGS)

    def move(self, other: Pipe, count: int) -> int:
        """Move up to ``count`` bytes to ``other``, as many as fit; return how many."""
        moved = 0
        while moved < count:
            try:
                moved += self.empty(other.sink, count - moved)
            except BlockingIOError:
                break
        return moved

    def duplicate(self, other: Pipe, count: int) -> int:
        """Copy up to ``count`` bytes to ``other`` (tee(2)); return how many fit. Raises OSError."""
        copied = _libc.tee(self.source, other.sink, count, os.SPLICE_F_NONBLOCK)
        if copied >= 0:
            return int(copied)
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            return 0
        raise OSError(number, os.strerror(number))

    def discard(self, count: int) -> None:
        """Discard ``count`` bytes, which must be available."""
        while count:
            count -= self.empty(_nowhere(), count)

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes, which must be available, into memory."""
        parts = []
        while count:
            parts.append(os.read(self.source, count))
            count -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close both descriptors."""
        for descriptor in (self.source, self.sink):
            if descriptor >= 0:
                os.close(descriptor)
        self.source = self.sink = -1

    def __del__(self) -> None:
        self.close()


@cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


_spare: deque[Pipe] = deque(maxlen=MOST_SPARE)


def take() -> Pipe:
    """Return an empty pipe of ``SIZE``, spare or new. Raises OSError when descriptors run out."""
    try:
        return _spare.pop()
    except IndexError:
        return Pipe()


def give_back(pipe: Pipe) -> None:
    """Keep an empty pipe for the next ``take``."""
    _spare.append(pipe)


def cut(pipe: Pipe, count: int) -> Pipe | bytes:
    """Move the first ``count`` bytes of ``pipe`` to a new pipe, or to memory where it is too small.

    The kernel makes pipes small for a user who has very many, and descriptors may run out.
    """
    try:
        fresh = take()
    except OSError:
        return pipe.read(count)
    moved = pipe.move(fresh, count)
    return fresh if moved == count else fresh.read(moved) + pipe.read(count - moved)

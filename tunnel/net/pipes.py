"""Pipes as buffers in the kernel: what ``splice`` and ``tee`` move between them are references to pages.

A pipe holds a number of *slots*, a page or a part of one in each, of 4 KiB to 32 KiB as the network stack
made them, or a single byte. So what fits is known only by trying: everything here moves as much as it can,
and says how much that was. Nothing here blocks.
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
"""Of one frame's pipe, in bytes; a slot is 4 KiB of that. More needs privileges (fs.pipe-max-size)."""

MOST_SPARE = 32

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_MORE = _FLAGS | os.SPLICE_F_MORE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


class Pipe:
    """Closed when nobody holds it any more. OSError when there are no descriptors left."""

    __slots__ = ("_size", "sink", "source")

    def __init__(self, size: int = SIZE) -> None:
        self.source = self.sink = -1
        _nowhere()  # for ``discard``, which must not fail
        self.source, self.sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._size = fcntl.fcntl(self.sink, fcntl.F_GETPIPE_SZ)
        self.grow(size)

    @property
    def size(self) -> int:
        """What it holds if all slots are full pages."""
        return self._size

    def grow(self, size: int) -> bool:
        """Make it larger, whatever is in it; False when the kernel does not let us, or it is no smaller."""
        if size <= self._size:
            return False
        try:
            self._size = fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, size)
        except OSError:  # more than fs.pipe-max-size, or than fs.pipe-user-pages-soft for this user
            return False
        return True

    def fill(self, descriptor: int, most: int) -> int:
        """Splice from a socket; 0 at its end. BlockingIOError: it has nothing, or no slot is free."""
        return os.splice(descriptor, self.sink, most, flags=_FLAGS)

    def empty(self, descriptor: int, most: int, *, more: bool = False) -> int:
        """Splice from the pipe to a socket, a pipe or a file; with ``more`` the socket waits for more."""
        return os.splice(self.source, descriptor, most, flags=_MORE if more else _FLAGS)

    def move(self, other: Pipe, count: int) -> int:
        """Move up to ``count`` bytes to ``other``, as many as fit."""
        moved = 0
        while moved < count:
            try:
                moved += self.empty(other.sink, count - moved)
            except BlockingIOError:
                break
        return moved

    def duplicate(self, other: Pipe, count: int) -> int:
        """Let ``other`` have up to ``count`` bytes as well, as many as fit. Raises OSError."""
        copied = _libc.tee(self.source, other.sink, count, os.SPLICE_F_NONBLOCK)
        if copied >= 0:
            return int(copied)
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            return 0
        raise OSError(number, os.strerror(number))

    def discard(self, count: int) -> None:
        """Forget ``count`` bytes, which must be there."""
        while count:
            count -= self.empty(_nowhere(), count)

    def read(self, count: int) -> bytes:
        """Copy ``count`` bytes out, which must be there."""
        parts = []
        while count:
            parts.append(os.read(self.source, count))
            count -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Give the descriptors up."""
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
    """Return an empty pipe of ``SIZE``, used before or new. OSError when there are no descriptors left."""
    try:
        return _spare.pop()
    except IndexError:
        return Pipe()


def give_back(pipe: Pipe) -> None:
    """Keep an empty pipe for the next ``take``."""
    _spare.append(pipe)


def cut(pipe: Pipe, count: int) -> Pipe | bytes:
    """Take the first ``count`` bytes of ``pipe`` into one of their own, or into memory where none will do.

    The kernel makes pipes small for a user who has very many.
    """
    try:
        fresh = take()
    except OSError:
        return pipe.read(count)
    moved = pipe.move(fresh, count)
    return fresh if moved == count else fresh.read(moved) + pipe.read(count - moved)

"""Payload in pipes: the kernel moves it from socket to socket without copying it into the process.

A ``Pipe`` is a kernel buffer: ``splice`` and ``tee`` move references to pages. It has a number of *slots*,
with a page or a part of one in each, of 4 KiB to 32 KiB as the network stack made them, or a single byte. So
what fits is known only by trying: each function moves as much as fits, and returns how much that was. Nothing
here blocks.

Like payload in memory, payload in a pipe has a length and can be sliced, and ``bytes`` copies it out; lanes,
sessions and pumps need nothing else of payload of either kind. A ``PipeSlice`` was received on a lane and is
in the lane's pipe. A ``PipeSegment`` is to be sent, alone in a pipe of its own. Its stream's
``RetransmitPipe`` holds the same bytes (tee(2): references, no copy) until they are delivered, because a pipe
that was spliced into a lane is empty, and the lane may be lost. If no pipe is available, or only a small one,
the bytes go through memory.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections import deque
from contextlib import suppress
from functools import cache

from tunnel.units import KIB, MIB

PIPE_SIZE = MIB
"""Size of one frame's pipe in bytes, 4 KiB per slot. More needs privileges (fs.pipe-max-size)."""

MOST_SPARE = 32

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_MORE = _FLAGS | os.SPLICE_F_MORE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t

PAGE = 4 * KIB
"""Bytes that a slot of a pipe pins, however few it holds."""

MOST_KEPT = 16 * MIB
"""Maximum size of a stream's retransmit pipe: 4096 slots."""

PAYS = 8
"""A pipe that holds less than an eighth of its size wastes memory: each slot pins a page."""

LOOK = 64
"""Frames between two checks whether a retransmit pipe wastes memory: each may pin a page."""


class Pipe:
    """A non-blocking pipe, closed with its last reference. Raises OSError when descriptors run out."""

    __slots__ = ("_size", "sink", "source")

    def __init__(self, size: int = PIPE_SIZE) -> None:
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


def take_pipe() -> Pipe:
    """Return an empty pipe of ``PIPE_SIZE``, spare or new. Raises OSError when descriptors run out."""
    try:
        return _spare.pop()
    except IndexError:
        return Pipe()


def give_back_pipe(pipe: Pipe) -> None:
    """Keep an empty pipe for the next ``take_pipe``."""
    _spare.append(pipe)


def cut_pipe(pipe: Pipe, count: int) -> Pipe | bytes:
    """Move the first ``count`` bytes of ``pipe`` to a new pipe, or to memory where it is too small.

    The kernel makes pipes small for a user who has very many, and descriptors may run out.
    """
    try:
        fresh = take_pipe()
    except OSError:
        return pipe.read(count)
    moved = pipe.move(fresh, count)
    return fresh if moved == count else fresh.read(moved) + pipe.read(count - moved)


class PipeSlice:
    """``size`` bytes at the head of a lane's pipe, valid until the batch ends."""

    __slots__ = ("_pipe", "_size", "left")

    def __init__(self, pipe: Pipe, size: int) -> None:
        self.left = size  # bytes not taken yet
        self._pipe = pipe
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> PipeSlice | bytes:
        start, stop, _ = part.indices(self._size)
        return self if stop - start == self._size else bytes(self)[start:stop]

    def __bytes__(self) -> bytes:
        """Take the bytes that are left."""
        count, self.left = self.left, 0
        return self._pipe.read(count)

    def send(self, descriptor: int) -> int:
        """Splice to a socket until that is full. Raises OSError."""
        sent = 0
        while self.left:
            try:
                count = self._pipe.empty(descriptor, self.left)
            except BlockingIOError:
                break
            self.left -= count
            sent += count
        return sent

    def move(self, pipe: Pipe) -> int:
        """Move to another pipe as much as fits."""
        moved = self._pipe.move(pipe, self.left)
        self.left -= moved
        return moved

    def drop(self) -> None:
        """Discard the bytes that are left."""
        count, self.left = self.left, 0
        self._pipe.discard(count)


class RetransmitPipe:
    """The bytes ``start`` to ``end`` that one stream sent and its peer has not delivered yet."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._memory = bytearray()  # the first of them, if moved out of the pipe; see ``relieve``
        self._pipe = Pipe()
        self._frames = 0  # since the last check
        self._again: Pipe | None = None  # a copy of the pipe, from which lost frames are cut
        self._reached = 0  # stream offset where the copy starts now
        self._copied = 0  # stream offset where it ends

    @property
    def size(self) -> int:
        """The current capacity of the pipe if all slots are full pages."""
        return self._pipe.size

    def keep(self, pipe: Pipe, most: int) -> int:
        """Keep the first ``most`` bytes of ``pipe``; return how many there was room for."""
        kept = self._pipe
        count = pipe.duplicate(kept, most)
        self.end += count
        # tee(2) starts at the head each time: what did not fit has to wait for the next call.
        if count < most and self._make_room() and not count:
            count = pipe.duplicate(kept, most)
            self.end += count
        self._look()
        return count

    @property
    def _in_pipe(self) -> int:
        return self.end - self.start - len(self._memory)

    def _make_room(self) -> bool:
        """Free slots: grow the pipe, or copy its contents to memory if they are few."""
        size = self._pipe.size
        if self._in_pipe * PAYS < size:
            self.relieve()
            return True
        return size < MOST_KEPT and self._pipe.grow(2 * size)

    def _look(self) -> None:
        """Copy small frames to memory from time to time, because each pins a page."""
        self._frames += 1
        if self._frames >= LOOK:
            self._frames = 0
            if self._in_pipe * PAYS < LOOK * PAGE:
                self.relieve()

    def release(self, offset: int) -> None:
        """Release everything before ``offset``, which is delivered."""
        if offset > self.start:
            in_memory = min(offset - self.start, len(self._memory))
            del self._memory[:in_memory]
            self._pipe.discard(offset - self.start - in_memory)
            self.start = offset
        if self._copied <= offset:
            self._again = None

    def relieve(self) -> None:
        """Move the contents of the pipe to memory, to free its slots."""
        self._memory += self._pipe.read(self._in_pipe)
        self._again = None

    def again(self, offset: int, stop: int) -> tuple[int, Pipe | bytes]:
        """Return the undelivered part of ``offset`` to ``stop``: its start offset, and the bytes."""
        offset = min(max(offset, self.start), stop)
        if offset == stop:
            return stop, b""
        if not self._memory and (copy := self._reach(offset, stop)) is not None:
            copy.discard(offset - self._reached)
            self._reached = stop
            return offset, cut_pipe(copy, stop - offset)
        self.relieve()
        return offset, bytes(self._memory[offset - self.start : stop - self.start])

    def _reach(self, offset: int, stop: int) -> Pipe | None:
        """Return a copy of the pipe that still has these bytes; None if that is not possible."""
        if self._again is None or offset < self._reached or stop > self._copied:
            self._again = None
            with suppress(OSError):
                self._copy()
        return self._again if stop <= self._copied else None

    def _copy(self) -> None:
        copy = self._again = Pipe(self._pipe.size)
        self._reached = self.start
        self._copied = self.start + self._pipe.duplicate(copy, self.end - self.start)


class PipeSegment:
    """``size`` bytes from ``offset`` of a stream, in ``pipe`` and with its ``keeper``."""

    __slots__ = ("_keeper", "_offset", "_pipe", "_size")

    def __init__(self, keeper: RetransmitPipe, offset: int, size: int, pipe: Pipe) -> None:
        self._keeper = keeper
        self._offset = offset
        self._size = size
        self._pipe: Pipe | None = pipe

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        begin, load = self.take(start, stop)
        if begin != start:
            raise OSError(f"bytes {start} to {begin} of a frame are delivered and no longer kept")
        return load if isinstance(load, bytes) else load.read(stop - start)

    def __bytes__(self) -> bytes:
        return self[:]

    def take(self, start: int, stop: int) -> tuple[int, Pipe | bytes]:
        """Return where the undelivered part begins, and its bytes, for the caller to consume; repeatable.

        It begins behind ``start``, or at ``stop``, if the peer has received the rest over another lane.
        """
        keeper, whole = self._keeper, (start, stop) == (0, self._size)
        pipe, self._pipe = self._pipe, None
        if pipe is not None and whole:
            return start, pipe
        begin, load = keeper.again(self._offset + start, self._offset + stop)
        return begin - self._offset, load

"""Payload in pipes: the kernel moves it from socket to socket without copying it into the process.

Like payload in memory it has a length and can be sliced, and ``bytes`` copies it out; lanes, sessions and
pumps need nothing else of payload of either kind.

A ``PipeSlice`` was received on a lane and is in the lane's pipe. A ``PipeSegment`` is to be sent, alone in a
pipe of its own. Its stream's ``RetransmitPipe`` holds the same bytes (tee(2): references, no copy) until they
are delivered, because a pipe that was spliced into a lane is empty, and the lane may be lost. If no pipe is
available, or only a small one, the bytes go through memory.
"""

from __future__ import annotations

from contextlib import suppress

from tunnel.net import pipes
from tunnel.net.pipes import Pipe
from tunnel.units import KIB, MIB

PAGE = 4 * KIB
"""Bytes that a slot of a pipe pins, however few it holds."""

MOST_KEPT = 16 * MIB
"""Maximum size of a stream's retransmit pipe: 4096 slots."""

PAYS = 8
"""A pipe that holds less than an eighth of its size wastes memory: each slot pins a page."""

LOOK = 64
"""Frames between two checks whether a retransmit pipe wastes memory: each may pin a page."""


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
            return offset, pipes.cut(copy, stop - offset)
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

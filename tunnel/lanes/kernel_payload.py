"""Payload that stays in pipes: the kernel moves it from socket to socket, and none of it enters the process.

Like payload in memory it has a length and can be sliced, and ``bytes`` copies it out; that is all that lanes,
sessions and pumps ask of payload whose kind does not matter to them.

A ``PipeSlice`` came on a lane and lies in the lane's pipe. A ``PipeSegment`` is to be sent, alone in a pipe
of its own. Its stream's ``RetransmitPipe`` has the same bytes once more (tee(2): references, no copy) until
they are delivered, because a pipe that was spliced into a lane is empty, and the lane may be lost. Where no
pipe is available, or only a small one, the same bytes go through memory.
"""

from __future__ import annotations

from contextlib import suppress

from tunnel.net import pipes
from tunnel.net.pipes import Pipe
from tunnel.units import KIB, MIB

PAGE = 4 * KIB
"""What a slot of a pipe pins, whatever is in it."""

MOST_KEPT = 16 * MIB
"""How large a stream's pipe for what is not delivered yet may grow: 4096 slots."""

PAYS = 8
"""A pipe that holds less than an eighth of its size wastes memory: a slot pins a page, however little."""

LOOK = 64
"""Frames after which a keeper looks whether its pipe pays: so many pages may be pinned by bytes."""


class PipeSlice:
    """``size`` bytes at the head of a lane's pipe, valid until the batch ends."""

    __slots__ = ("_pipe", "_size", "left")

    def __init__(self, pipe: Pipe, size: int) -> None:
        self.left = size  # what nobody has taken yet
        self._pipe = pipe
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> PipeSlice | bytes:
        start, stop, _ = part.indices(self._size)
        return self if stop - start == self._size else bytes(self)[start:stop]

    def __bytes__(self) -> bytes:
        """What nobody has taken yet; it is taken then."""
        count, self.left = self.left, 0
        return self._pipe.read(count)

    def send(self, descriptor: int) -> int:
        """Splice as much as goes to a socket. Raises OSError."""
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
        """Move as much as fits into another pipe."""
        moved = self._pipe.move(pipe, self.left)
        self.left -= moved
        return moved

    def drop(self) -> None:
        """Forget what nobody has taken."""
        count, self.left = self.left, 0
        self._pipe.discard(count)


class RetransmitPipe:
    """What one stream sent and its peer has not delivered: bytes ``start`` to ``end``."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._memory = bytearray()  # the first of them, while the pipe has none to spare; see ``relieve``
        self._pipe = Pipe()
        self._frames = 0  # that came since the last look
        self._again: Pipe | None = None  # a copy of the pipe, from which lost frames are cut
        self._reached = 0  # where the copy begins by now
        self._copied = 0  # where it ends

    @property
    def size(self) -> int:
        """What its pipe holds by now if all slots are full pages."""
        return self._pipe.size

    def keep(self, pipe: Pipe, most: int) -> int:
        """Let the first ``most`` bytes of ``pipe`` be kept; how many there was room for."""
        kept = self._pipe
        count = pipe.duplicate(kept, most)
        self.end += count
        # tee(2) begins at the head each time: what did not fit must wait for the next call.
        if count < most and self._make_room() and not count:
            count = pipe.duplicate(kept, most)
            self.end += count
        self._look()
        return count

    @property
    def _in_pipe(self) -> int:
        return self.end - self.start - len(self._memory)

    def _make_room(self) -> bool:
        """No slot is free: have more of them if they pay, or else a copy of the little that they hold."""
        size = self._pipe.size
        if self._in_pipe * PAYS < size:
            self.relieve()
            return True
        return size < MOST_KEPT and self._pipe.grow(2 * size)

    def _look(self) -> None:
        """Copy what lies in pages of its own, and is little: small frames cost so much each."""
        self._frames += 1
        if self._frames >= LOOK:
            self._frames = 0
            if self._in_pipe * PAYS < LOOK * PAGE:
                self.relieve()

    def release(self, offset: int) -> None:
        """Everything before ``offset`` is delivered."""
        if offset > self.start:
            in_memory = min(offset - self.start, len(self._memory))
            del self._memory[:in_memory]
            self._pipe.discard(offset - self.start - in_memory)
            self.start = offset
        if self._copied <= offset:
            self._again = None

    def relieve(self) -> None:
        """Copy what is kept into memory, so that the pipe has room again."""
        self._memory += self._pipe.read(self._in_pipe)
        self._again = None

    def again(self, offset: int, stop: int) -> tuple[int, Pipe | bytes]:
        """Bytes ``offset`` to ``stop``, without what is delivered by now: where they begin, and they."""
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
        """Return a copy of the pipe that still has these bytes; None without the means for one."""
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
            raise OSError(f"bytes {start} to {begin} of a frame are delivered, and not kept any longer")
        return load if isinstance(load, bytes) else load.read(stop - start)

    def __bytes__(self) -> bytes:
        return self[:]

    def take(self, start: int, stop: int) -> tuple[int, Pipe | bytes]:
        """Return these bytes, for the caller to use up, and where they begin; may be said again.

        That is behind ``start``, or even ``stop``, if the peer has what is before: another lane brought it.
        """
        keeper, whole = self._keeper, (start, stop) == (0, self._size)
        pipe, self._pipe = self._pipe, None
        if pipe is not None and whole:
            return start, pipe
        begin, load = keeper.again(self._offset + start, self._offset + stop)
        return begin - self._offset, load

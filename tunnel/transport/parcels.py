"""Payload that stays in pipes: the kernel moves it from socket to socket, and none of it enters the process.

Like payload in memory it has a length and can be sliced, and ``bytes`` copies it out; that is all that lanes,
sessions and pumps ask of payload whose kind does not matter to them.

A ``Lent`` came on a lane and lies in the lane's pipe. A ``Parcel`` is to be sent, alone in a pipe of its own.
Its stream's ``Keeper`` has the same bytes once more (tee(2): references, no copy) until they are delivered,
because a pipe that was spliced into a lane is empty, and the lane may be lost.
"""

from __future__ import annotations

import threading

from tunnel.transport import pipes
from tunnel.transport.pipes import Pipe
from tunnel.wire.codes import MIB

MOST_KEPT = 16 * MIB
"""How large a stream's pipe for what is not delivered yet may grow: 4096 slots."""


class Lent:
    """``size`` bytes at the head of a lane's pipe, valid until the batch ends."""

    __slots__ = ("_pipe", "_size", "left")

    def __init__(self, pipe: Pipe, size: int) -> None:
        self.left = size  # what nobody has taken yet
        self._pipe = pipe
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> Lent | bytes:
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


class Keeper:
    """What one stream sent and its peer has not delivered: bytes ``start`` to ``end``.

    Lanes on threads of their own ask it for bytes that are to be sent again: hence the lock.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._pipe = Pipe()
        self._again: Pipe | None = None  # a copy of the pipe, from which lost frames are cut
        self._reached = 0  # where the copy begins by now
        self._copied = 0  # where it ends
        self._lock = threading.Lock()

    def keep(self, pipe: Pipe, most: int) -> int:
        """Let the first ``most`` bytes of ``pipe`` be kept; how many there was room for."""
        with self._lock:
            kept = self._pipe
            count = pipe.duplicate(kept, most)
            # tee(2) begins at the head each time: what did not fit must wait for the next call.
            if count < most and kept.size < MOST_KEPT and kept.grow(2 * kept.size) and not count:
                count = pipe.duplicate(kept, most)
            self.end += count
            return count

    def release(self, offset: int) -> None:
        """Everything before ``offset`` is delivered."""
        with self._lock:
            if offset > self.start:
                self._pipe.discard(offset - self.start)
                self.start = offset
            if self._copied <= offset:
                self._again = None

    def again(self, offset: int, count: int) -> Pipe:
        """Return a pipe with ``count`` bytes from ``offset``, which are kept. Raises OSError."""
        with self._lock:
            copy = self._again
            if copy is None or offset < self._reached or offset + count > self._copied:
                copy = self._copy()
            copy.discard(offset - self._reached)
            fresh = pipes.take()
            moved = copy.move(fresh, count)
            self._reached = offset + moved
            if moved < count:
                raise OSError(f"a pipe takes {moved} of {count} bytes that are to be sent again")
            return fresh

    def _copy(self) -> Pipe:
        copy = self._again = Pipe(self._pipe.size)
        self._reached = self.start
        self._copied = self.start + self._pipe.duplicate(copy, self.end - self.start)
        return copy


class Parcel:
    """``size`` bytes from ``offset`` of a stream, in ``pipe`` and with its ``keeper``."""

    __slots__ = ("_keeper", "_offset", "_pipe", "_size")

    def __init__(self, keeper: Keeper, offset: int, size: int, pipe: Pipe) -> None:
        self._keeper = keeper
        self._offset = offset
        self._size = size
        self._pipe: Pipe | None = pipe

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        return self.take(start, stop).read(stop - start)

    def __bytes__(self) -> bytes:
        return self[:]

    def take(self, start: int, stop: int) -> Pipe:
        """Return a pipe with just these bytes, for the caller to empty; may be said again. Raises OSError."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None and (start, stop) == (0, self._size):
            return pipe
        return self._keeper.again(self._offset + start, stop - start)

"""An event loop whose time advances only when it is idle, and simulated sockets for it.

Execution is deterministic: no kernel, no clock, no randomness. A socket here is one end of a connection whose
two directions (``Way``) a test can hold or cut, with loss of the data in transit. Programs see it as TCP:
bytes in order, EOF, reset, a full buffer.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

START = 1000.0
"""Start of simulated time, in seconds."""

LEAST = 1e-11
"""Minimum seconds per idle loop iteration: otherwise rounding of sums of times could block forever."""

MOST_TURNS = 5000
"""Maximum loop iterations without time passing: more than any terminating operation needs."""

_NO_DESCRIPTOR = 1 << 29
"""Above all descriptors of the kernel: system calls with one of these fail with EBADF."""

Item = bytes | None  # None: EOF


class SimLoop(asyncio.BaseEventLoop):
    """An event loop that is its own selector. Sockets are served in the order in which they got ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.readers: dict[Socket, asyncio.Handle] = {}
        self.writers: dict[Socket, asyncio.Handle] = {}
        self._roused: dict[Socket, None] = {}
        self._idle = 0  # loop iterations since time has advanced
        self._clock_resolution = 1e-9
        self._selector = self

    def time(self) -> float:
        return self.now

    def rouse(self, sock: Socket) -> None:
        """Check in the next iteration whether ``sock`` is ready."""
        self._roused[sock] = None

    def select(self, timeout: float | None) -> list[asyncio.Handle]:
        ready = []
        for sock in list(self._roused):
            handles = [
                table[sock]
                for table, is_ready in ((self.readers, sock.readable), (self.writers, sock.writable))
                if sock in table and is_ready
            ]
            if not handles:
                del self._roused[sock]
            ready += handles
        if not ready:
            assert timeout is not None, "deadlock: no timer and no ready socket"
            self.now += max(timeout, LEAST)
        self._idle = 0 if timeout and not ready else self._idle + 1
        assert self._idle < MOST_TURNS, "busy loop: simulated time does not advance"
        return ready

    def _process_events(self, event_list: list[asyncio.Handle]) -> None:
        self._ready.extend(event_list)  # type: ignore[attr-defined]  # as the selector's loop does

    def _write_to_self(self) -> None:
        pass

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        self._watch(self.readers, fd, callback, args)

    def add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        self._watch(self.writers, fd, callback, args)

    def remove_reader(self, fd: Any) -> bool:
        return self._unwatch(self.readers, fd)

    def remove_writer(self, fd: Any) -> bool:
        return self._unwatch(self.writers, fd)

    def _watch(self, table: dict[Socket, asyncio.Handle], sock: Any, callback: Any, args: Any) -> None:
        self._unwatch(table, sock)
        table[sock] = asyncio.Handle(callback, args, self)
        self.rouse(sock)

    @staticmethod
    def _unwatch(table: dict[Socket, asyncio.Handle], sock: Any) -> bool:
        handle = table.pop(sock, None)
        if handle is not None:
            handle.cancel()
        return handle is not None

    def clear(self) -> None:
        """Cancel all tasks that a failed test left running."""
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks))


@contextmanager
def simulated() -> Iterator[SimLoop]:
    """Run a simulated loop; ``time.monotonic`` returns its time. Uncaught exceptions fail the test."""
    loop, surprises = SimLoop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: surprises.append(context))
    with patch("time.monotonic", loop.time):
        try:
            yield loop
        finally:
            loop.clear()
            loop.close()
    for context in surprises:
        raise context.get("exception") or AssertionError(context["message"])


class Way:
    """One direction of a connection: data that ``source`` sent, and ``target`` has not received yet."""

    def __init__(self, loop: SimLoop, source: Socket, target: Socket, delay: float, capacity: int) -> None:
        self.source = source
        self.target = target
        self.dead = False  # all data is lost, without notice to either end
        self._loop = loop
        self._delay = delay
        self._capacity = capacity
        self._queue: deque[Item] = deque()
        self._reset = False  # follows the data in transit
        self._holds = 0

    @property
    def room(self) -> int:
        """The free space of the send buffer in bytes."""
        waiting = sum(len(item) for item in self._queue if item) + len(self.target.inbox)
        return max(0, self._capacity - waiting)

    def put(self, item: Item) -> None:
        if not self.dead:
            self._queue.append(item)
            self._move()

    def reset(self, *, lost: bool) -> None:
        """Reset by the source: held data is lost, and the reset as well, if ``lost``."""
        if self._holds:
            self._queue.clear()
        if not (self._holds and lost):
            self._reset = True
            self._move()

    def hold(self) -> None:
        """Hold all data until ``release``, which must be called as often."""
        self._holds += 1

    def release(self) -> None:
        self._holds -= 1
        if not self._holds:
            self._move()

    def lose(self) -> None:
        """Lose the data in transit and all later data."""
        self.dead = True
        self._queue.clear()
        self._reset = False

    def _move(self) -> None:
        if not self._holds:
            self._loop.call_later(self._delay, self._arrive)

    def _arrive(self) -> None:
        if self._holds or self.dead:
            return
        while self._queue:
            self.target.take(self._queue.popleft())
        if self._reset:
            self._reset = False
            self.target.fail(errno.ECONNRESET)


_numbers = itertools.count(_NO_DESCRIPTOR)


class Socket:
    """One end of a connection, with the part of the socket interface that the relay uses."""

    family = socket.AF_UNIX  # nothing to tune

    def __init__(self, loop: SimLoop, name: tuple[str, int], peer: tuple[str, int]) -> None:
        self.inbox = bytearray()
        self.taken = 0  # total bytes that were sent
        self.closed = False
        self.broken = False  # it was reset
        self.lossy = False  # a held reset is lost
        self.out: Way | None = None
        self._loop = loop
        self._name = name
        self._peer = peer
        self._descriptor = next(_numbers)
        self._ended = False
        self._error = 0
        self._shut = False
        self._lingers = True

    def __repr__(self) -> str:
        return f"<socket {self._name} to {self._peer}>"

    # Called by the network.

    def take(self, item: Item) -> None:
        if self.closed:
            if item is not None:
                self._tell_reset()
            return
        if item is None:
            self._ended = True
        else:
            self.inbox += item
        self._loop.rouse(self)

    def fail(self, number: int) -> None:
        if not self.closed and not self.broken:
            self._error, self.broken = number, True
            self._loop.rouse(self)

    def _tell_reset(self) -> None:
        self.way.reset(lost=self.lossy)

    @property
    def way(self) -> Way:
        assert self.out is not None
        return self.out

    @property
    def readable(self) -> bool:
        return bool(self.inbox) or self._ended or self.broken

    @property
    def writable(self) -> bool:
        return self.broken or self.way.room > 0

    # Called by programs.

    def fileno(self) -> int:
        return -1 if self.closed else self._descriptor

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def setblocking(self, flag: bool) -> None:
        pass

    def setsockopt(self, level: int, option: int, value: object) -> None:
        if option == socket.SO_LINGER:
            self._lingers = False

    def getsockopt(self, level: int, option: int, size: int = 0) -> int:
        if option != socket.SO_ERROR or size:
            raise OSError(errno.EOPNOTSUPP, "")
        error, self._error = self._error, 0
        return error

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._error:
            number, self._error = self._error, 0
            raise OSError(number, os.strerror(number))

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = bytes(self.inbox[:size])
        if not data:
            self._check()
            if not (self._ended or self.broken):
                raise BlockingIOError
        if not flags & socket.MSG_PEEK:
            del self.inbox[:size]
            self._loop.rouse(self.way.target)  # it may be writable again
        return data

    def recvmsg_into(self, buffers: list[memoryview]) -> tuple[int, list[Any], int, None]:
        (buffer,) = buffers
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data), [], 0, None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        self._check()
        if self.broken or self._shut:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not (room := self.way.room):
            raise BlockingIOError
        piece = bytes(data[:room])
        self.taken += len(piece)
        self.way.put(piece)
        return len(piece)

    def sendmsg(self, views: list[bytes | memoryview]) -> int:
        return self.send(b"".join(views))

    def shutdown(self, how: int) -> None:
        self._check()
        if how != socket.SHUT_RD and not self._shut:
            self._shut = True
            self.way.put(None)
        if how == socket.SHUT_RDWR:
            self._ended = True
            self._loop.rouse(self)

    def close(self) -> None:
        if self.closed:
            return
        if self.inbox or not self._lingers:
            self._tell_reset()
        elif not self._shut:
            self.way.put(None)
        self.closed = True
        self._loop.remove_reader(self)
        self._loop.remove_writer(self)


def connected(
    loop: SimLoop,
    near: tuple[str, int],
    far: tuple[str, int],
    *,
    delay: float = 0.0,
    capacity: int = 1 << 16,
) -> tuple[Socket, Socket]:
    """Return both ends of a new connection. ``delay``: seconds in each direction; ``capacity``: bytes."""
    one, other = Socket(loop, near, far), Socket(loop, far, near)
    one.out, other.out = Way(loop, one, other, delay, capacity), Way(loop, other, one, delay, capacity)
    return one, other

"""One stream's local socket: read from it when it is the stream's turn, write to it what arrived.

A pump never reads ahead. It tells its owner once that the socket is readable, and reads when it is asked
to, as much as the window allows: a slow link or a slow peer so reaches the hypervisor as plain TCP
back-pressure. What arrived and does not fit into the socket waits here; the window bounds it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

from tunnel.lanes.lane import SourceRead
from tunnel.net.passed_descriptors import receiver
from tunnel.net.peer_credentials import is_closed
from tunnel.net.sockets import caller_of, reset, tune_local
from tunnel.records.slabs import ReadBuffers
from tunnel.units import KIB
from tunnel.wire.payload import Memory, Payload, in_memory

_MOST_VIEWS = 64  # per sendmsg call; IOV_MAX is 1024
ENOUGH = 256 * KIB
"""What a read of bulk should bring: each costs a frame, and sends a hypervisor to sleep and wakes it."""

MOMENT = 0.001
"""Seconds that a read waits for that at most, and only where the last one says that so much comes by then."""

Carry = Callable[[int, Sequence[memoryview]], SourceRead]
"""A lane's ``carry``, for one place in a stream."""

_CHUNK = 64 * KIB
"""What waits is joined, and cut, to pieces of this size: an object for each of a peer's tiny frames costs far
more, and of a piece that is not all written yet, what is written stays in memory."""


class PumpHandler(Protocol):
    """The table of streams, as its pumps see it."""

    def on_readable(self, pump: Pump) -> None:
        """The socket has something to read: said again after a ``read`` or ``forward`` that found its end."""

    def on_delivered(self, pump: Pump, count: int) -> None:
        """``count`` bytes are in the socket."""

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        """The socket takes nothing any more: the hypervisor closed it, after all that it had to say."""

    def on_reset(self, pump: Pump, error: OSError) -> None:
        """The socket failed. What came before that can still be read; the end of it raises ``error``."""


class Pump:
    """Owns ``sock``, a connected socket of the hypervisor, on behalf of stream ``number``."""

    def __init__(self, sock: socket.socket, number: int, target: str, owner: PumpHandler) -> None:
        tune_local(sock)
        self.number = number
        self.target = target
        self.caller = caller_of(sock)
        self.uid: int | None = None  # of the local user who opened the stream; None where the peer did
        self.outwards = False  # the stream was opened here
        self.since = time.monotonic()
        self.bytes_read = 0  # from the local socket
        self.bytes_written = 0  # to the local socket
        self.backlog = 0  # bytes that arrived and are not written yet
        self.read_ended = False
        self.write_ended = False
        self.broken = False  # writing failed: what still arrives is dropped, and never called delivered
        self.hung_up = False  # the hypervisor sends nothing more, though some of it may not be read yet
        self.fault: OSError | None = None  # the socket was reset: no end of it is a clean one any more
        self._sock = sock
        self._receive = receiver(sock)
        self._memory = ReadBuffers(ENOUGH)
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._read_at = 0.0
        self._failure: OSError | None = None  # of reading, behind what was read before
        self.drained = False  # ``forward`` saw that there is no more for now, and the socket is watched
        self._gathers = False  # more is about to come: reading waits for it
        self._heeds = sock.family != socket.AF_UNIX  # SO_RCVLOWAT, when the loop asks
        self._least = 1  # bytes that must be there before the loop is told
        self._watched = False  # by the loop
        self._told = False  # the owner knows that there is something to read
        self._moment: asyncio.TimerHandle | None = None
        self._fresh: list[Payload] = []
        self._waiting: deque[bytearray | memoryview] = deque()

    # From the socket.

    @property
    def forwards(self) -> bool:
        """Whether ``forward`` works here: else ``read``."""
        return True

    def start_reading(self) -> None:
        """Watch the socket."""
        self._watch(1)

    def _watch(self, least: int) -> None:
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        self._told = False
        if not self._watched:  # the loop pays for each change with system calls
            self._watched = True
            self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        if self._told:  # and has not found the end of it since: others come first, or the peer takes no more
            self._watch_no_more()
            return
        self._told = True
        self._owner.on_readable(self)

    def _watch_no_more(self) -> None:
        """Also to be told once more of an error, which ends uvloop's watch when it has told of it."""
        self._watched = False
        self._loop.remove_reader(self._sock)

    def read(self, limit: int) -> Payload | None:
        """Return up to ``limit`` bytes, b"" at the end, or None: nothing there now. Raises OSError."""
        self._check_failure()
        if self._gathering():
            return None
        try:
            count = self._receive(self._memory.room(limit))
        except BlockingIOError:
            count = -1  # as long as the exception is there, its frames have a view
        if count < 0:
            self._memory.take(0, 0)
            self.start_reading()
            return None
        self._took(count, limit)
        return self._memory.take(count, self.bytes_read)

    def forward(self, carry: Carry, limit: int) -> Sequence[Payload] | None:
        """As ``read``, by ``carry``, which sends what it reads: that, in order; nothing at the end."""
        self._check_failure()
        if self._gathering():
            return None
        taken, self.drained, ended, self._failure = carry(self._sock.fileno(), self._memory.rooms(limit))
        pieces = self._memory.pieces(taken, self.bytes_read + taken)
        if not (taken or ended):
            self._check_failure()
            if not self.drained:
                self._watch_no_more()
            self.start_reading()
            return None
        self._took(taken, limit)
        if self.drained and not self._gathering():
            self.start_reading()
        return pieces

    def _check_failure(self) -> None:
        """Raise what was found behind the bytes that were read last."""
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure

    def _took(self, count: int, limit: int) -> None:
        """A read brought ``count`` bytes of the ``limit`` that it asked for.

        The kernel tells of a reset once, to a reader or a writer, and then calls it an end: hence ``fault``.
        """
        if not count and self.fault is not None:
            raise self.fault
        self.bytes_read += count
        self.read_ended = not count
        now = time.monotonic()
        elapsed, self._read_at = now - self._read_at, now
        soon = elapsed * ENOUGH < count * MOMENT
        self._gathers = self._heeds and soon and count < min(limit, ENOUGH)

    def _gathering(self) -> bool:
        """Whether the socket is left alone until it has enough, or for a moment: see ENOUGH."""
        if gathers := self._gathers:
            self._gathers = False
            self._watch(ENOUGH)
            self._moment = self._loop.call_later(MOMENT, self._readable)
        return gathers

    def release(self, offset: int) -> None:
        """The peer delivered everything before ``offset``. What is in memory is kept by the session."""
        self._memory.release(offset)

    # To the socket.

    @property
    def sink(self) -> int:
        """The socket's descriptor, for whoever writes to it what comes next; -1: that is to be delivered."""
        return -1 if self.broken or self._fresh or self._waiting else self._sock.fileno()

    def on_passed(self, count: int, error: OSError | None) -> None:
        """So many bytes were written to the sink, which failed behind them if there is an ``error``."""
        self._report(count)
        if error is not None:
            self._give_up(error)

    def deliver(self, data: Payload) -> None:
        """Take ``data`` to be written by ``flush``, which must come while it is valid."""
        if not self.broken:
            self._fresh.append(data)

    def flush(self) -> None:
        """Write what was delivered, now or when the socket takes it."""
        fresh, self._fresh = [in_memory(each) for each in self._fresh], []
        count = 0
        if fresh and not self._waiting:
            count = self._write(fresh)
        if not self.broken and count < sum(map(len, fresh)):
            self._keep(fresh, count)
        self._report(count)

    def _keep(self, fresh: list[Memory], written: int) -> None:
        """Copy what the socket did not take: its memory is about to be used again."""
        for data in fresh:
            if written >= len(data):
                written -= len(data)
                continue
            if not self._waiting:
                self._loop.add_writer(self._sock, self._writable)
            self._append(data[written:])
            written = 0

    def _append(self, rest: Memory) -> None:
        self.backlog += len(rest)
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, bytearray) and len(last) < _CHUNK:
            room = _CHUNK - len(last)
            last += rest[:room]
            rest = rest[room:]
        for start in range(0, len(rest), _CHUNK):
            self._waiting.append(bytearray(rest[start : start + _CHUNK]))

    def _writable(self) -> None:
        count = self._write(list(islice(self._waiting, _MOST_VIEWS)))
        self._drop(count)
        if not self._waiting and not self.broken:
            self._loop.remove_writer(self._sock)
        self._report(count)

    def _drop(self, count: int) -> None:
        """Forget the first ``count`` waiting bytes, which are written."""
        self.backlog -= count
        while count:
            first = self._waiting.popleft()
            if count < len(first):
                self._waiting.appendleft(memoryview(first)[count:])
                return
            count -= len(first)

    def _write(self, views: Sequence[Memory | bytearray]) -> int:
        try:
            return self._sock.sendmsg(views[:_MOST_VIEWS])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._give_up(error)
            return 0

    def _report(self, count: int) -> None:
        """Last of all, because it may close the pump."""
        if count:
            self.bytes_written += count
            self._owner.on_delivered(self, count)

    def hang_up(self, *, failed: bool) -> None:
        """The hypervisor hung up, or its connection ``failed``. It may close the pump."""
        self.hung_up = True
        if failed and (error := self._pending_error()) is not None:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more. EPIPE says that an end came before the error, and is a true one (tcp(7), unix(7)).

        A unix socket says EPIPE as well if its other end was closed with bytes unread: that is its reset.
        """
        if error.errno == errno.EPIPE:
            error = self._pending_error() or error
        known = self.broken
        self._forget()
        self._loop.remove_writer(self._sock)
        if error.errno != errno.EPIPE and not self.read_ended:
            self.fault = error
            self._owner.on_reset(self, error)
        elif not known:
            self._owner.on_write_error(self, error)

    def _pending_error(self) -> OSError | None:
        """Fetch the error that no read or write has told of yet: this, too, takes it from the others."""
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return OSError(number, os.strerror(number)) if number else None

    def shutdown_write(self) -> None:
        """The peer's direction ended, and all of it is written."""
        self.write_ended = True
        with suppress(OSError):  # a socket that is gone already shows when it is read
            self._sock.shutdown(socket.SHUT_WR)

    # The end.

    @property
    def descriptor(self) -> int:
        """Of the socket; -1 once it is closed."""
        return self._sock.fileno()

    @property
    def half_closed(self) -> bool:
        """Whether one direction ended and the other did not."""
        return self.read_ended != self.write_ended

    @property
    def left(self) -> bool:
        """Whether the hypervisor closed its end entirely, and did not only end its own direction: 0.1 ms."""
        return is_closed(self._sock)

    def close(self) -> None:
        """Both directions ended in order."""
        self._unwatch()
        self._sock.close()

    def reset(self) -> None:
        """Let the hypervisor see a failure."""
        self._unwatch()
        reset(self._sock)

    def _unwatch(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self._forget()

    def _forget(self) -> None:
        """Nothing is written any more."""
        self.broken = True
        self._fresh.clear()
        self._waiting.clear()
        self.backlog = 0

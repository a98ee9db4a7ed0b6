"""One stream's local socket: read from it when it is the stream's turn, write to it what arrived.

A pump never reads ahead. It tells its owner once that the socket is readable, and reads when it is asked
to, as much as the window allows: a slow link or a slow peer so reaches the hypervisor as plain TCP
back-pressure. What arrived and does not fit into the socket waits here; the window bounds it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

from tunnel.transport.sockets import caller_of, reset, tune_local
from tunnel.wire.assembly import Payload
from tunnel.wire.codes import KIB

_MOST_VIEWS = 64  # per sendmsg call; IOV_MAX is 1024
ENOUGH = 256 * KIB
"""What a read of bulk should bring: each costs a frame, and sends a hypervisor to sleep and wakes it."""

MOMENT = 0.001
"""Seconds that a read waits for that at most, and only where the last one says that so much comes by then."""

_CHUNK = 64 * KIB  # below it, what waits is joined: an object for each of a peer's tiny frames costs far more


class PumpOwner(Protocol):
    """The table of streams, as its pumps see it."""

    def on_readable(self, pump: Pump) -> None:
        """The socket has something to read; it will be said again after a ``read`` that found nothing."""

    def on_delivered(self, pump: Pump, count: int) -> None:
        """``count`` bytes are in the socket."""

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        """The socket takes nothing any more."""


class Pump:
    """Owns ``sock``, a connected socket of the hypervisor, on behalf of stream ``number``."""

    def __init__(self, sock: socket.socket, number: int, target: str, owner: PumpOwner) -> None:
        tune_local(sock)
        self.number = number
        self.target = target
        self.caller = caller_of(sock)
        self.bytes_read = 0  # from the local socket
        self.bytes_written = 0  # to the local socket
        self.backlog = 0  # bytes that arrived and are not written yet
        self.read_ended = False
        self.write_ended = False
        self.broken = False  # writing failed: what still arrives is dropped, and never called delivered
        self._sock = sock
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._read_at = 0.0
        self._gathers = False  # more is about to come: reading waits for it
        self._heeds = sock.family != socket.AF_UNIX  # SO_RCVLOWAT, when the loop asks
        self._least = 1  # bytes that must be there before the loop is told
        self._moment: asyncio.TimerHandle | None = None
        self._fresh: list[bytes | memoryview] = []
        self._waiting: deque[bytearray | memoryview] = deque()

    # From the socket.

    def start_reading(self) -> None:
        """Watch the socket."""
        self._watch(1)

    def _watch(self, least: int) -> None:
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        self._loop.remove_reader(self._sock)
        self._owner.on_readable(self)

    def read(self, limit: int) -> Payload | None:
        """Return up to ``limit`` bytes, b"" at the end, or None: nothing there now. Raises OSError."""
        if self._gathering():
            return None
        try:
            data = self._sock.recv(limit)
        except BlockingIOError:
            self.start_reading()
            return None
        self._took(len(data), limit)
        return data

    def _took(self, count: int, limit: int) -> None:
        """A read brought ``count`` bytes of the ``limit`` that it asked for."""
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

    # To the socket.

    def deliver(self, data: bytes | memoryview) -> None:
        """Take ``data`` to be written by ``flush``, which must come while the view is valid."""
        if not self.broken:
            self._fresh.append(data)

    def flush(self) -> None:
        """Write what was delivered, now or when the socket takes it."""
        fresh, self._fresh = self._fresh, []
        count = 0
        if fresh and not self._waiting:
            count = self._write(fresh)
        if not self.broken and count < sum(map(len, fresh)):
            self._keep(fresh, count)
        self._report(count)

    def _keep(self, fresh: list[bytes | memoryview], written: int) -> None:
        """Copy what the socket did not take: its memory is about to be used again."""
        for data in fresh:
            if written >= len(data):
                written -= len(data)
                continue
            if not self._waiting:
                self._loop.add_writer(self._sock, self._writable)
            self._append(data[written:])
            written = 0

    def _append(self, rest: bytes | memoryview) -> None:
        self.backlog += len(rest)
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, bytearray) and len(last) < _CHUNK:
            last += rest
        else:
            self._waiting.append(bytearray(rest))

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

    def _write(self, views: Sequence[bytes | bytearray | memoryview]) -> int:
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

    def _give_up(self, error: OSError) -> None:
        self._forget()
        self._loop.remove_writer(self._sock)
        self._owner.on_write_error(self, error)

    def shutdown_write(self) -> None:
        """The peer's direction ended, and all of it is written."""
        self.write_ended = True
        with suppress(OSError):  # a socket that is gone already shows when it is read
            self._sock.shutdown(socket.SHUT_WR)

    # The end.

    @property
    def half_closed(self) -> bool:
        """Whether one direction ended and the other did not."""
        return self.read_ended != self.write_ended

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

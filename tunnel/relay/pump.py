"""The local socket of one stream: read it when the stream is scheduled, write to it what arrives.

A pump never reads ahead. It reports once that the socket is readable, and reads on request, as much as the
window allows: the hypervisor sees a slow link or a slow peer as plain TCP back-pressure. Payload that does
not fit into the socket is buffered here, bounded by the window.
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
from tunnel.net.peer_credentials import is_closed
from tunnel.net.sockets import caller_of, reset, tune_local
from tunnel.records.slabs import ReadBuffers
from tunnel.units import KIB
from tunnel.wire.payload import Memory, Payload, in_memory

_MOST_VIEWS = 64  # per sendmsg call; IOV_MAX is 1024
ENOUGH = 256 * KIB
"""Bytes that a bulk read should return: each costs a frame, and a sleep and wakeup of the hypervisor."""

MOMENT = 0.001
"""Most seconds that a read waits for ENOUGH, and only if the rate of the last read makes it likely."""

Carry = Callable[[int, Sequence[memoryview]], SourceRead]
"""``Lane.carry``, bound to an offset of a stream."""

SO_PASSRIGHTS = 83
"""Whether a unix socket accepts descriptors: Linux 6.16, include/uapi/asm-generic/socket.h."""

_CHUNK = 64 * KIB
"""Buffered payload is kept in pieces of this size: an object for each of a peer's tiny frames would cost far
more, and a larger piece would stay in memory until it is written completely."""


class PumpHandler(Protocol):
    """What a pump needs from the stream table."""

    def on_readable(self, pump: Pump) -> None:
        """The socket is readable. Called again only after a ``read`` or ``forward`` that emptied it."""

    def on_delivered(self, pump: Pump, count: int) -> None:
        """``count`` bytes were written to the socket."""

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        """The socket accepts no more: the hypervisor closed it after sending everything."""

    def on_reset(self, pump: Pump, error: OSError) -> None:
        """The socket failed. Data before that can still be read; at its end ``read`` raises ``error``."""


class Pump:
    """Owns ``sock``, a connected socket to the hypervisor, for stream ``number``."""

    def __init__(self, sock: socket.socket, number: int, target: str, owner: PumpHandler) -> None:
        tune_local(sock)
        self.number = number
        self.target = target
        self.caller = caller_of(sock)
        self.uid: int | None = None  # of the local user that opened the stream; None if the peer did
        self.outwards = False  # opened by this host
        self.since = time.monotonic()
        self.bytes_read = 0  # from the local socket
        self.bytes_written = 0  # to the local socket
        self.backlog = 0  # bytes received and not written yet
        self.read_ended = False
        self.write_ended = False
        self.broken = False  # writing failed: further payload is dropped, not reported as delivered
        self.hung_up = False  # the hypervisor has closed; some of its data may be unread
        self.fault: OSError | None = None  # the socket was reset: its end is not a clean one
        self._sock = sock
        self._receive = receiver(sock)
        self._memory = ReadBuffers(ENOUGH)
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._read_at = 0.0
        self._failure: OSError | None = None  # of reading, after the bytes already returned
        self.drained = False  # ``forward`` emptied the socket, which is watched now
        self._gathers = False  # more is expected: reading waits for it
        self._heeds = sock.family != socket.AF_UNIX  # the poll of the loop respects SO_RCVLOWAT
        self._least = 1  # bytes available before the loop reports it: SO_RCVLOWAT
        self._watched = False  # by the loop
        self._told = False  # ``on_readable`` was called
        self._moment: asyncio.TimerHandle | None = None
        self._fresh: list[Payload] = []
        self._waiting: deque[bytearray | memoryview] = deque()

    # From the socket.

    @property
    def forwards(self) -> bool:
        """Whether to use ``forward`` rather than ``read``."""
        return True

    def start_reading(self) -> None:
        """Watch the socket for data."""
        self._watch(1)

    def _watch(self, least: int) -> None:
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        self._told = False
        if not self._watched:  # each change costs system calls
            self._watched = True
            self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        if self._told:  # and not emptied since: others are scheduled, or the window is closed
            self._watch_no_more()
            return
        self._told = True
        self._owner.on_readable(self)

    def _watch_no_more(self) -> None:
        """Stop watching. Also needed to get an error again: uvloop stops watching after it."""
        self._watched = False
        self._loop.remove_reader(self._sock)

    def read(self, limit: int) -> Payload | None:
        """Return up to ``limit`` bytes, b"" at the end, None if nothing is available. Raises OSError."""
        self._check_failure()
        if self._gathering():
            return None
        try:
            count = self._receive(self._memory.room(limit))
        except BlockingIOError:
            count = -1  # leave this block: the exception's frames hold a view
        if count < 0:
            self._memory.take(0, 0)
            self.start_reading()
            return None
        self._took(count, limit)
        return self._memory.take(count, self.bytes_read)

    def forward(self, carry: Carry, limit: int) -> Sequence[Payload] | None:
        """Like ``read``, but by ``carry``, which also sends the bytes. Return them, or () at the end."""
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
        """Raise the error that followed the bytes of the last read."""
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure

    def _took(self, count: int, limit: int) -> None:
        """Account for a read that returned ``count`` bytes of at most ``limit``.

        The kernel reports a reset once, to a reader or a writer, and afterwards EOF: hence ``fault``.
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
        """Whether to wait, for at most MOMENT, until the socket has ENOUGH."""
        if gathers := self._gathers:
            self._gathers = False
            self._watch(ENOUGH)
            self._moment = self._loop.call_later(MOMENT, self._readable)
        return gathers

    def release(self, offset: int) -> None:
        """Free what the peer delivered, before ``offset``. The session keeps payload that is in memory."""
        self._memory.release(offset)

    # To the socket.

    @property
    def sink(self) -> int:
        """The socket's descriptor, for writing to it directly; -1 if payload must go through ``deliver``."""
        return -1 if self.broken or self._fresh or self._waiting else self._sock.fileno()

    def on_passed(self, count: int, error: OSError | None) -> None:
        """Account for ``count`` bytes written to the sink, which failed after them if ``error`` is set."""
        self._report(count)
        if error is not None:
            self._give_up(error)

    def deliver(self, data: Payload) -> None:
        """Queue ``data`` for ``flush``, which must be called while it is valid."""
        if not self.broken:
            self._fresh.append(data)

    def flush(self) -> None:
        """Write the queued payload, now or when the socket is writable."""
        fresh, self._fresh = [in_memory(each) for each in self._fresh], []
        count = 0
        if fresh and not self._waiting:
            count = self._write(fresh)
        if not self.broken and count < sum(map(len, fresh)):
            self._keep(fresh, count)
        self._report(count)

    def _keep(self, fresh: list[Memory], written: int) -> None:
        """Copy what the socket did not accept, because its memory will be reused."""
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
        """Drop the first ``count`` buffered bytes, which are written."""
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
        """Report written bytes. Call it last, because it may close the pump."""
        if count:
            self.bytes_written += count
            self._owner.on_delivered(self, count)

    def hang_up(self, *, failed: bool) -> None:
        """Handle a hangup of the hypervisor, or a ``failed`` connection. It may close the pump."""
        self.hung_up = True
        if failed and (error := self._pending_error()) is not None:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more. EPIPE: the other side ended cleanly before the error (tcp(7), unix(7)).

        A unix socket also returns EPIPE if the other side was closed with unread bytes: that is its reset.
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
        """Return the pending error of the socket (SO_ERROR), which clears it for reads and writes."""
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return OSError(number, os.strerror(number)) if number else None

    def shutdown_write(self) -> None:
        """End the direction from the peer, all of which is written."""
        self.write_ended = True
        with suppress(OSError):  # if the socket has failed, reading shows it
            self._sock.shutdown(socket.SHUT_WR)

    # The end.

    @property
    def descriptor(self) -> int:
        """File descriptor of the socket; -1 once it is closed."""
        return self._sock.fileno()

    @property
    def half_closed(self) -> bool:
        """Whether one direction has ended and the other has not."""
        return self.read_ended != self.write_ended

    @property
    def left(self) -> bool:
        """Whether the hypervisor closed the socket, not only its own direction. Takes 0.1 ms."""
        return is_closed(self._sock)

    def close(self) -> None:
        """Close the socket: both directions have ended cleanly."""
        self._unwatch()
        self._sock.close()

    def reset(self) -> None:
        """Reset the socket, so that the hypervisor sees a failure."""
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
        """Drop buffered payload: nothing more is written."""
        self.broken = True
        self._fresh.clear()
        self._waiting.clear()
        self.backlog = 0


def receiver(sock: socket.socket) -> Callable[[memoryview], int]:
    """Return a ``recv_into`` for a local connection that raises OSError when descriptors are received.

    A unix socket may pass some (SCM_RIGHTS, unix(7)), which cannot be passed to another host. With ``recv``
    the kernel would close them without notice, while the remote program waits for them: libvirt sends some
    for ``virsh start --pass-fds`` or the console of ``virt-viewer --attach``.
    """
    if sock.family != socket.AF_UNIX:
        return sock.recv_into

    def receive(buffer: memoryview) -> int:
        # No buffer for ancillary data: the kernel closes descriptors, and sets MSG_CTRUNC.
        count, _, flags, _ = sock.recvmsg_into([buffer])
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EOPNOTSUPP, "file descriptors cannot be passed to another host")
        return count

    return receive


def refuse_descriptors(sock: socket.socket) -> None:
    """Make sending descriptors to ``sock`` fail with EPERM, where the kernel supports that.

    For sockets that are read with ``splice``, which does not report descriptors.
    """
    if sock.family == socket.AF_UNIX:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)

"""Records between non-blocking sockets, or one and memory: one call for each time that a socket is ready.

``seal_send`` is sealing and send(2), until the socket is full; ``recv_open`` is recv(2) and opening, until it
is empty. ``carry`` and ``pass_on`` do the same with payload of streams, which they read from a hypervisor's
socket, or write to it. All stop after ``MOST_BYTES``, to bound a loop iteration. The keys are passed to each
call: they may change in between (KeyUpdate).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from tunnel.engine.binding import BYTES, CARRIED, OPENED, PASSED, ROOMS, SENT, SINKS, ffi
from tunnel.engine.compiled import (
    DATA,
    Bytes,
    CompiledOpener,
    CompiledSealer,
    Control,
    EngineError,
    Fault,
    event,
    let_go,
    point_to,
    sealing_error,
)


class Stop(Enum):
    """Why a call ended: the numbers of ``engine.h``."""

    DONE = 0
    """All pieces are sent."""
    EVENT = 1
    """A record was received that is not DATA, or that ends the connection."""
    BUDGET = 2
    """The limit of a call is reached; there may be more."""
    FILLED = 3
    """The next record does not fit into the output."""
    FULL = 4
    """The socket accepts no more."""
    EMPTY = 5
    """The socket has no more."""
    ENDED = 6
    """The peer closed its direction of the connection."""
    FAILED = 7
    """The socket failed."""
    SOURCE_EMPTY = 8
    """The hypervisor's socket has no more."""
    SOURCE_ENDED = 9
    """The hypervisor closed its direction."""
    SOURCE_FAILED = 10
    """The hypervisor's socket failed."""


_STOPS = tuple(Stop)


class Sent(NamedTuple):
    """The result of ``seal_send``.

    ``taken`` bytes of the pieces are sealed, the rest is still the caller's; the socket accepted ``sent``
    bytes, and ``unsent`` are buffered for the next call. ``gone`` bytes of content, some perhaps of earlier
    calls, are sent: a batch counts when the last of its records is.
    """

    taken: int
    gone: int
    sent: int
    unsent: int
    stop: Stop


class Received(NamedTuple):
    """The result of ``recv_open``.

    ``filled`` plain bytes of DATA, from ``records`` records; ``received`` bytes were read from the socket.
    ``error`` is errno with ``Stop.FAILED``. Data before an event, the end or an error is valid.
    """

    filled: int
    records: int
    received: int
    event: Control | Fault | None
    stop: Stop
    error: int


class Target(NamedTuple):
    """Destination of the payload of ``stream`` from ``offset`` on and below ``limit``: a socket's descriptor.

    ``left`` bytes of a frame of that stream come first.
    """

    stream: int
    descriptor: int
    offset: int
    limit: int
    left: int = 0


class Carried(NamedTuple):
    """The result of ``carry``: ``sent``, and ``read`` bytes of payload, which are sealed in frames.

    ``error`` is errno with ``Stop.SOURCE_FAILED``. ``fault`` is the exception of sealing or sending: the
    connection is unusable then, but the payload that was read is valid.
    """

    sent: Sent
    read: int
    error: int
    fault: Exception | None


class TransferOutcome(NamedTuple):
    """The result for a target: ``passed`` bytes were written to it, and ``left`` of its frame were not.

    ``full``: it accepts no more for now. ``error`` is its errno.
    """

    passed: int
    left: int
    full: bool
    error: int


class PassedOn(NamedTuple):
    """The result of ``pass_on``: an outcome for each target; ``current`` is the target of the last frame.

    Of the ``filled`` plain bytes of ``received``, those from ``start`` on were not passed on. ``frames``
    headers of DATA were consumed.
    """

    received: Received
    start: int
    frames: int
    current: int
    outcomes: list[TransferOutcome]


class RecordSocket:
    """A socket with buffers for unsent and unopened records, 256 KiB each. The caller still owns ``sock``.

    Each call gets the descriptor from ``sock``: after a close, the number may be another connection's.
    """

    def __init__(self, library: Any, sock: socket.socket) -> None:
        self._library = library
        self._sock = sock
        self._outgoing = self._buffer()
        self._incoming = self._buffer()

    def _buffer(self) -> Any:
        handle = self._library.mt_buffer_new()
        if handle == ffi.NULL:
            raise EngineError("out of memory for the buffers of a connection")
        return ffi.gc(handle, self._library.mt_buffer_free)

    @property
    def unsent(self) -> int:
        """Bytes of records that the socket has not accepted yet."""
        count: int = self._library.mt_buffer_waiting(self._outgoing)
        return count

    @property
    def unopened(self) -> int:
        """Bytes received and not opened yet: the beginning of a record, or what a call left."""
        count: int = self._library.mt_buffer_waiting(self._incoming)
        return count

    def put(self, record: bytes) -> None:
        """Queue a record of up to 64 bytes, sealed elsewhere. Raises ValueError when it does not fit."""
        if not self._library.mt_buffer_put(self._outgoing, record, len(record)):
            raise ValueError(f"no room for {len(record)} bytes in the send buffer")

    def seal_send(
        self, sealer: CompiledSealer, pieces: Sequence[Bytes], kind: int = DATA, *, more: bool = False
    ) -> Sent:
        """Send what is buffered, then seal and send ``pieces``; ``more`` is MSG_MORE of send(2).

        Without pieces only what is buffered is sent. Raises OSError when the socket failed, and otherwise as
        ``CompiledSealer.seal``: some of the pieces may be sent by then.
        """
        array, held = point_to(pieces)
        sent = ffi.new(SENT)
        stop = self._library.mt_send(
            sealer.handle, self._outgoing, self._sock.fileno(), kind, array, len(held), more, sent
        )
        let_go(held)
        if stop < 0 or sent.error:
            raise _fault(stop, sent)
        return _sent(sent, stop)

    def carry(
        self, sealer: CompiledSealer, source: int, stream: int, offset: int, rooms: Sequence[memoryview]
    ) -> Carried:
        """Send what is buffered, then frames of data from ``source``, a socket's descriptor, at ``offset``.

        The data is read into ``rooms``, until these are full, or either socket is not ready.
        """
        held = [ffi.from_buffer(BYTES, room, True) for room in rooms]
        array = ffi.new(ROOMS, [(room, len(room)) for room in held])
        carried = ffi.new(CARRIED)
        stop = self._library.mt_carry(
            *(sealer.handle, self._outgoing, self._sock.fileno(), source, stream, offset),
            *(array, len(held), carried),
        )
        let_go(held)
        fault = _fault(stop, carried.sent) if stop < 0 or carried.sent.error else None
        return Carried(_sent(carried.sent, max(stop, 0)), carried.read, carried.error, fault)

    def recv_open(self, opener: CompiledOpener, plain: bytearray | memoryview) -> Received:
        """Open buffered and newly received records into ``plain``, which needs room for a complete one."""
        opened, number = ffi.new(OPENED), self._sock.fileno()
        with ffi.from_buffer(BYTES, plain, True) as room:
            stop = self._library.mt_receive(opener.handle, self._incoming, number, room, len(room), opened)
            return _received(opened, stop, room)

    def pass_on(
        self, opener: CompiledOpener, plain: memoryview, targets: Sequence[Target], most: int
    ) -> PassedOn:
        """As ``recv_open``, but write payload of streams to their ``targets``.

        The first is that of the frame in progress, or of the last one. Data that is not such payload, or that
        its target does not accept, is left in ``plain``. About ``most`` bytes are received.
        """
        passed, number = ffi.new(PASSED), self._sock.fileno()
        sinks = ffi.new(SINKS, [(*target, 0, 0, 0) for target in targets])
        with ffi.from_buffer(BYTES, plain, True) as room:
            stop = self._library.mt_pass(
                *(opener.handle, self._incoming, number, room, len(room)),
                *(most, sinks, len(targets), passed),
            )
            received = _received(passed.opened, stop, room)
        outcomes = [TransferOutcome(each.passed, each.left, bool(each.full), each.error) for each in sinks]
        return PassedOn(received, passed.start, passed.frames, passed.current, outcomes)


def _fault(stop: int, sent: Any) -> Exception:
    """Return why nothing more can be sent."""
    return sealing_error(stop) if stop < 0 else OSError(sent.error, os.strerror(sent.error))


def _sent(sent: Any, stop: int) -> Sent:
    return Sent(sent.taken, sent.gone, sent.sent, sent.unsent, _STOPS[stop])


def _received(opened: Any, stop: int, room: Any) -> Received:
    found = event(stop, opened, room) if stop <= Stop.EVENT.value else None
    reason = _STOPS[max(stop, Stop.EVENT.value)]
    return Received(opened.filled, opened.records, opened.received, found, reason, opened.error)

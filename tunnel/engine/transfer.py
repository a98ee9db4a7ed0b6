"""Records between non-blocking sockets, or one and memory: one call for each time that a socket is ready.

``seal_send`` is sealing and send(2), until the socket is full; ``recv_open`` is recv(2) and opening, until it
is empty. ``carry`` and ``pass_on`` do the same with payload of a stream, read from its hypervisor's
socket, or write to that. All stop after ``MOST_BYTES``, so that others have their turn. The keys come with
each call: they may be exchanged in between (KeyUpdate).
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
    """Why a call came to its end: the numbers of ``engine.h``."""

    DONE = 0
    """All pieces are sent."""
    EVENT = 1
    """A record came that is not DATA, or that ends the connection."""
    BUDGET = 2
    """As much as one call does; there may be more."""
    FILLED = 3
    """The next record does not fit into the output."""
    FULL = 4
    """The socket takes no more."""
    EMPTY = 5
    """The socket has no more."""
    ENDED = 6
    """The peer closed its direction of the connection."""
    FAILED = 7
    """The socket failed."""
    SOURCE_EMPTY = 8
    """A hypervisor has no more to be read."""
    SOURCE_ENDED = 9
    """It ended its direction."""
    SOURCE_FAILED = 10
    """Its socket failed."""


_STOPS = tuple(Stop)


class Sent(NamedTuple):
    """What ``seal_send`` did.

    ``taken`` bytes of the pieces are sealed, and what is behind them is still the caller's; the socket took
    ``sent`` bytes, and ``unsent`` wait for the next call. ``gone`` bytes of content, some perhaps of earlier
    calls, have left: a batch counts when the last of its records has.
    """

    taken: int
    gone: int
    sent: int
    unsent: int
    stop: Stop


class Received(NamedTuple):
    """What ``recv_open`` did.

    ``filled`` plain bytes of DATA, from ``records`` records; ``received`` bytes came from the socket.
    ``error`` is errno with ``Stop.FAILED``. What came before an event, the end or an error is good.
    """

    filled: int
    records: int
    received: int
    event: Control | Fault | None
    stop: Stop
    error: int


class Target(NamedTuple):
    """Where the payload of ``stream`` goes, a socket's descriptor, from ``offset`` on and before ``limit``.

    ``left`` bytes of a frame of it come first.
    """

    stream: int
    descriptor: int
    offset: int
    limit: int
    left: int = 0


class Carried(NamedTuple):
    """What ``carry`` did: what it ``sent``, and ``read`` bytes of payload, which are sealed in frames.

    ``error`` is errno with ``Stop.SOURCE_FAILED``. ``fault`` is what sealing or sending raised: the
    connection is of no more use, but what was read was read.
    """

    sent: Sent
    read: int
    error: int
    fault: Exception | None


class TransferOutcome(NamedTuple):
    """What became of a target: ``passed`` bytes are in it, and ``left`` of its frame are not.

    ``full``: it takes no more for now. ``error`` is its errno.
    """

    passed: int
    left: int
    full: bool
    error: int


class PassedOn(NamedTuple):
    """What ``pass_on`` did: an outcome for each target; ``current`` is the one whose frame was the last.

    ``received`` is the rest, from ``start`` on: its first ``filled`` plain bytes were partly passed on.
    ``frames`` headers of DATA were taken.
    """

    received: Received
    start: int
    frames: int
    current: int
    outcomes: list[TransferOutcome]


class RecordSocket:
    """What waits to be sent and to be opened, 256 KiB at most of each. ``sock`` stays the caller's.

    Its descriptor is asked for in each call: once it is closed, the number may be another connection's.
    """

    def __init__(self, library: Any, sock: socket.socket) -> None:
        self._library = library
        self._sock = sock
        self._outgoing = self._buffer()
        self._incoming = self._buffer()

    def _buffer(self) -> Any:
        handle = self._library.mt_buffer_new()
        if handle == ffi.NULL:
            raise EngineError("no memory for a connection")
        return ffi.gc(handle, self._library.mt_buffer_free)

    @property
    def unsent(self) -> int:
        """Bytes of records that the socket did not take yet."""
        count: int = self._library.mt_buffer_waiting(self._outgoing)
        return count

    @property
    def unopened(self) -> int:
        """Bytes that came and are not opened yet: the beginning of a record, or what a call left."""
        count: int = self._library.mt_buffer_waiting(self._incoming)
        return count

    def put(self, record: bytes) -> None:
        """Let a record of up to 64 bytes that was made otherwise leave behind what waits. Else ValueError."""
        if not self._library.mt_buffer_put(self._outgoing, record, len(record)):
            raise ValueError(f"{len(record)} bytes are more than may wait")

    def seal_send(
        self, sealer: CompiledSealer, pieces: Sequence[Bytes], kind: int = DATA, *, more: bool = False
    ) -> Sent:
        """Send what waits, then make records of ``pieces`` and send them; ``more`` is that of send(2).

        Without pieces only what waits is sent. Raises OSError when the socket failed; otherwise what
        ``CompiledSealer.seal`` raises: of the pieces, some may be sent by then.
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
        """Send what waits, then frames of what ``source`` has, a socket's descriptor, from ``offset`` on.

        That is read into ``rooms``, until these are full, or either socket has nothing more for us.
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
        """Open what waits and what the socket has, into ``plain``, which needs room for a whole record."""
        opened, number = ffi.new(OPENED), self._sock.fileno()
        with ffi.from_buffer(BYTES, plain, True) as room:
            stop = self._library.mt_receive(opener.handle, self._incoming, number, room, len(room), opened)
            return _received(opened, stop, room)

    def pass_on(
        self, opener: CompiledOpener, plain: memoryview, targets: Sequence[Target], most: int
    ) -> PassedOn:
        """As ``recv_open``; and payload of streams goes to their ``targets``.

        The first is that of the frame which has begun, or was the last. What is not such payload, or is more
        than a target takes, is left in ``plain``. About ``most`` bytes are taken.
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
    """Why nothing more can be sent."""
    return sealing_error(stop) if stop < 0 else OSError(sent.error, os.strerror(sent.error))


def _sent(sent: Any, stop: int) -> Sent:
    return Sent(sent.taken, sent.gone, sent.sent, sent.unsent, _STOPS[stop])


def _received(opened: Any, stop: int, room: Any) -> Received:
    found = event(stop, opened, room) if stop <= Stop.EVENT.value else None
    reason = _STOPS[max(stop, Stop.EVENT.value)]
    return Received(opened.filled, opened.records, opened.received, found, reason, opened.error)

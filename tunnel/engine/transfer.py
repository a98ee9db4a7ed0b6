"""Records between a non-blocking socket and memory: one call for each time that the socket is ready.

``seal_send`` is sealing and send(2), until the socket is full; ``recv_open`` is recv(2) and opening, until it
is empty. Both stop after ``MOST_BYTES``, so that others have their turn. The keys come with each call: they
may be exchanged in between (KeyUpdate).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from tunnel.engine.binding import BYTES, OPENED, SENT, ffi
from tunnel.engine.compiled import (
    DATA,
    Bytes,
    CompiledOpener,
    CompiledSealer,
    Control,
    EngineError,
    Fault,
    event,
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
        if stop < 0:
            raise sealing_error(stop)
        if sent.error:
            raise OSError(sent.error, os.strerror(sent.error))
        return Sent(sent.taken, sent.gone, sent.sent, sent.unsent, _STOPS[stop])

    def recv_open(self, opener: CompiledOpener, plain: bytearray | memoryview) -> Received:
        """Open what waits and what the socket has, into ``plain``, which needs room for a whole record."""
        opened, room = ffi.new(OPENED), ffi.from_buffer(BYTES, plain, True)
        stop = self._library.mt_receive(
            opener.handle, self._incoming, self._sock.fileno(), room, len(room), opened
        )
        found = event(stop, opened, room) if stop <= Stop.EVENT.value else None
        reason = _STOPS[max(stop, Stop.EVENT.value)]
        return Received(opened.filled, opened.records, opened.received, found, reason, opened.error)

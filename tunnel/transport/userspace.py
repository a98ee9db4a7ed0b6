"""The userspace lane: TLS records of our own, and a non-blocking socket that the loop watches.

How a byte leaves: the pump's memory → ``seal`` makes records (16 KiB) of it in one buffer → one ``send`` for
many of them. How it arrives: one ``recv`` for many records → ``open`` decrypts them into one contiguous
buffer → the decoder → views of that buffer. No byte is copied beside that, but of records that are not whole
yet. docs/decisions/0058-records-of-our-own.md has the figures.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time

from tunnel.engine.binding import Provider
from tunnel.errors import LaneError
from tunnel.transport.bucket import Bucket, Rate
from tunnel.transport.key_schedule import Keys
from tunnel.transport.lane import LaneHandler, LaneKind, view
from tunnel.transport.record_layer import SPARE, RecordLayer, TlsEnd
from tunnel.transport.record_opener import ready
from tunnel.transport.record_sealer import Content, sealed_size
from tunnel.transport.sockets import reason_of
from tunnel.transport.tls_messages import CLOSED, RECORD
from tunnel.transport.watched import WatchedLane
from tunnel.wire.codes import KIB
from tunnel.wire.frames import Frame
from tunnel.wire.states import LaneState
from tunnel.wire.stream import Outgoing

BATCH = 512 * KIB
"""Bytes that are sealed or opened before they are passed on: they stay in a level-2 cache."""

LARGE = BATCH + 2 * KIB
"""Memory for a batch of records, with what is around their content."""

EXPECTED = 256 * KIB
"""What to wait for inside a frame: each time we are woken costs the same, however little there is."""

FEW = 4 * KIB
"""Memory for what a lane sends that carries no payload: one that is refused costs no more."""

SMALL = 16 * KIB
"""Payload up to here shares a record with its header; more is not copied for that."""

ASIDES = Rate(32, 1 / 60)
"""Records and messages beside the frames that a peer may send: two session tickets, KeyUpdates."""


def _memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


class _Scratch(threading.local):
    """The buffers that all lanes of a thread share: nothing stays in them between two turns of its loop."""

    def __init__(self) -> None:
        self.cipher = _memory(BATCH)
        self.plain = _memory(BATCH)


_scratch = _Scratch()
_NOTHING = memoryview(b"")


class UserspaceLane(WatchedLane[Content]):
    """See the contract in ``lane``. ``sock`` is one whose handshake left it with ``keys``.

    ``provider`` of the compiled engine makes the records; without it Python does.
    """

    kind = LaneKind.USERSPACE

    def __init__(
        self,
        sock: socket.socket,
        keys: Keys,
        peer: str,
        state: LaneState,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        provider: Provider | None = None,
    ) -> None:
        super().__init__(sock, peer, state, loop)
        self._shares = loop is None  # the buffers of its thread
        # On a thread of its own, another lane's thread may read what this one sends: it stays as it is.
        self._records = RecordLayer(keys, provider, in_place=loop is None)
        self._incoming = _scratch.cipher if loop is None else _memory(BATCH)
        self._plain = _scratch.plain if loop is None else _memory(BATCH)
        self._outgoing = _memory(FEW)  # the lane's own: it keeps what the socket did not take
        self._rest = _NOTHING  # what is not sent of it
        self._sealed = 0  # plain bytes of which that is the end
        self._unopened = _NOTHING  # what came and is not opened yet, in memory of its own
        self._more = False  # there are whole records in it
        self._least = 1  # bytes that must be there before the loop is told
        self._emptied = True  # the socket had no more
        self._cut = ""  # why no more can come than is at hand
        self._asides = Bucket(ASIDES, time.monotonic())

    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Go on in the running loop, and with the buffers of its thread."""
        if self._shares:
            self._incoming, self._plain = _scratch.cipher, _scratch.plain
        super().enter(handler, frame)

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._records.cipher

    @property
    def records_sent(self) -> int:
        """TLS records that were made of what was sent."""
        return self._records.records_sent

    @property
    def records_received(self) -> int:
        """TLS records that came."""
        return self._records.records_received

    def send_control(self, frames: bytes) -> None:
        """Queue whole control frames; they leave with the next ``send`` or ``flush``."""
        if not (self.ended or self._unsendable):
            self._unsent.append(frames)

    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued before it."""
        if self._handler is None or self._unsendable:
            return
        payload = view(outgoing.piece)
        if len(payload) <= SMALL:
            self._unsent.append(outgoing.header + payload)
        else:
            self._unsent.append(outgoing.header)
            self._unsent.append(payload)
        self.flush()

    def _push(self) -> bool:
        """Offer what is queued to the socket; whether it took all. Until the last, it sends full segments."""
        sent, self._full = 0, False
        try:
            while not self._full and self._prepare():
                count = self._sock.send(self._rest, socket.MSG_MORE if self._unsent else 0)
                sent += count
                self._rest = self._rest[count:]
                self._full = bool(self._rest)
        except BlockingIOError:
            self._full = True
        except OSError as error:
            self._break_off(reason_of(error))
            return True
        except LaneError as error:
            self._break_off(str(error))
            return True
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        if (records := self._records.records_sent) >= self._mark:
            self._used(records)
        return not self._full

    def _prepare(self) -> bool:
        """Have something to send at hand, sealed; whether there is anything. LaneError when it cannot be."""
        if not self._rest:
            self._bytes_sent += self._sealed
            self._sealed = 0
            if self._unsent or self._records.owes_update:
                pieces = self._gather()
                self._sealed = sum(map(len, pieces))
                self._rest = self._outgoing[: self._records.seal(pieces, self._outgoing)]
        return bool(self._rest)

    def _gather(self) -> list[Content]:
        """Take a batch off the queue, whole records if there are as many."""
        unsent, pieces = self._unsent, []
        left = len(self._outgoing) - SPARE
        while unsent:
            piece = unsent[0]
            if (size := sealed_size(len(piece))) <= left:
                pieces.append(unsent.popleft())
                left -= size
                continue
            if len(self._outgoing) == FEW:  # it carries more than frames of control
                self._outgoing = _memory(LARGE)
                left += LARGE - FEW
                continue
            if whole := left // sealed_size(RECORD) * RECORD:
                pieces.append(memoryview(piece)[:whole])
                unsent[0] = memoryview(piece)[whole:]
            break
        return pieces

    # Reading.

    def _read(self) -> bool:
        if self._more or not self._cut:
            self._take_records()
        if self.ended:
            return False
        if self._leftover or self._more:
            return True
        if self._cut:
            self._lost(self._cut)
            return False
        if not self._emptied:
            return True
        self._expect()
        return False

    def _take_records(self) -> None:
        """Open what a turn allows, and hand it over. Sets ``_cut`` when no more can come."""
        unsendable = self._unsendable  # what answers to these bytes meet with, if it is over, is no cause
        if not (own := self._more):
            cipher, end = self._fill()
            self._cut = end and (unsendable or end)
        else:
            cipher = self._unopened
        taken, count, over = self._records.open(cipher, len(cipher), self._plain)
        self._keep(cipher[taken:], own=own)
        if count:
            self._bytes_received += count
            self._keepalive.heard(time.monotonic())
            self._received(self._plain[:count])
        if (records := self._records.records_received) >= self._mark:
            self._used(records)
        if over is not None:
            self._more = False
            self._answer_end(over)
            self._cut = unsendable or over.reason
        elif (asides := self._records.take_asides()) and not self.ended:
            self._take_asides(asides, unsendable)

    def _fill(self) -> tuple[memoryview, str]:
        """Read a batch, or what there is, behind what is not opened yet; and why no more will come, if so.

        Until the socket says that it is empty: uvloop tells of a reset only once, with the bytes before it.
        """
        view, size = self._incoming, len(self._unopened)
        view[:size] = self._unopened
        self._emptied = True
        try:
            while size < BATCH:
                if not (count := self._sock.recv_into(view[size:])):
                    return view[:size], CLOSED
                size += count
        except BlockingIOError:
            pass
        except OSError as error:
            return view[:size], reason_of(error)
        else:
            self._emptied = False
        return view[:size], ""

    def _keep(self, rest: memoryview, *, own: bool) -> None:
        """Keep what is not opened of a batch; its memory, if not ``own``, will be used again."""
        self._more = ready(rest)
        if not (own and self._more):
            rest = memoryview(bytes(rest))
        self._unopened = rest

    def _answer_end(self, over: TlsEnd) -> None:
        """Tell the peer by an alert what is wrong, if the socket takes one now."""
        if over.alert is not None and not (self.ended or self._full):
            self._unsent.clear()
            self._rest = memoryview(self._records.end(over.alert))
            self._push()

    def _take_asides(self, count: int, unsendable: str) -> None:
        """The peer said so many things beside its frames."""
        if not self._asides.take(time.monotonic(), count):
            self._lost(unsendable or _TOO_MANY)  # with what is behind them
        elif self._records.owes_update and self.room and not self._push():
            self._loop.add_writer(self._sock, self._writable)

    def _expect(self) -> None:
        """Ask not to be woken for less than a good piece of a frame that has begun: the rest surely comes.

        The beginning of a record may be out of the socket already: that much less comes.
        """
        least = EXPECTED if self._decoder.payload_left >= EXPECTED + RECORD else 1
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    # The end.

    def _say_goodbye(self) -> None:
        """Everything is sent: close_notify, and no more from our side."""
        self._rest = self._rest or memoryview(self._records.end())
        if self._push():
            self._shut()
        else:
            self._wait_for_room()

    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed: once a turn, see LINGER."""
        try:
            if self._sock.recv_into(self._incoming):
                self._read_on()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()


_TOO_MANY = f"the peer broke TLS: more than {ASIDES.burst} messages beside its frames"

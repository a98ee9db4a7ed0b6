"""The userspace lane: OpenSSL in memory, beside a non-blocking socket that the loop watches.

How a byte leaves: the pump's buffer → ``encrypt`` makes records (16 KiB) of it in memory → one ``send`` for
many of them. How it arrives: one ``recv`` for many records → ``decrypt`` into one contiguous buffer → the
decoder → views of that buffer. OpenSSL could read and write the socket itself; but each record would then
cost its own calls, and where packets are small, packets of its own. docs/decisions/0036-openssl-in-memory.md
has the figures.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time

from OpenSSL import SSL

from tunnel.transport.bucket import Bucket, Rate
from tunnel.transport.lane import LaneKind, view
from tunnel.transport.openssl import CLOSED, Buffer, TlsConnection, WantRead, explain, is_alert
from tunnel.transport.sockets import reason_of
from tunnel.transport.tls_messages import NOT_LISTED, RECORD
from tunnel.transport.watched import WatchedLane
from tunnel.wire.codes import KIB
from tunnel.wire.states import LaneState
from tunnel.wire.stream import Outgoing

BATCH = 512 * KIB
"""Bytes that are encrypted or decrypted before they are passed on: they stay in a level-2 cache."""

EXPECTED = 256 * KIB
"""What to wait for inside a frame: each time we are woken costs the same, however little there is."""

FEW = 4 * KIB
"""Memory for what a lane sends that carries no payload: one that is refused costs no more."""

SMALL = 16 * KIB
"""Payload up to here shares a record with its header; more is not copied for that."""

ASIDES = Rate(32, 1 / 60)
"""TLS messages beside the frames that a peer may send: two session tickets, KeyUpdates. Each of these may ask
for one of ours, which OpenSSL keeps until the peer takes it."""

_OVERHEAD = 2 * RECORD  # beside a batch: records' headers and tags, what OpenSSL holds of one already


class _Scratch(threading.local):
    """The buffers that all lanes of a thread share: nothing stays in them between two turns of its loop."""

    def __init__(self) -> None:
        self.cipher = Buffer(BATCH)
        self.plain = Buffer(BATCH + _OVERHEAD)


_scratch = _Scratch()


class UserspaceLane(WatchedLane[bytes | memoryview]):
    """See the contract in ``lane``."""

    kind = LaneKind.USERSPACE

    def __init__(
        self,
        sock: socket.socket,
        tls: TlsConnection,
        peer: str,
        state: LaneState,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(sock, peer, state, loop)
        self._tls = tls
        self._incoming = _scratch.cipher if loop is None else Buffer(BATCH)
        self._plain = _scratch.plain if loop is None else Buffer(BATCH + _OVERHEAD)
        self._outgoing = Buffer(FEW)  # the lane's own: it keeps what the socket did not take
        self._rest = self._outgoing.view[:0]  # what is not sent of it
        self._encrypted = 0  # plain bytes of which that is the end
        self._records = 0  # that came
        self._least = 1  # bytes that must be there before the loop is told
        self._emptied = True  # the socket had no more
        self._cut = ""  # why no more can come than is at hand
        self._asides = Bucket(ASIDES, time.monotonic())

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._tls.cipher

    @property
    def records_sent(self) -> int:
        """TLS records that OpenSSL made of what was sent."""
        return self._tls.records_sent

    @property
    def records_received(self) -> int:
        """TLS records that came."""
        return self._records  # as of the last batch: OpenSSL's objects are the lane's thread's alone

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
        except SSL.Error as error:
            self._break_off(_explain(error))
            return True
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        if (records := self._tls.records_sent) >= self._mark:
            self._used(records)
        return not self._full

    def _prepare(self) -> bool:
        """Have something to send at hand, encrypted; whether there is anything."""
        if not self._rest:
            self._bytes_sent += self._encrypted
            self._encrypted = 0
            if not (count := self._tls.take(self._outgoing)):
                self._encrypt()
                count = self._tls.take(self._outgoing)
            self._rest = self._outgoing.view[:count]
        return bool(self._rest)

    def _encrypt(self) -> None:
        """Encrypt a batch of what is queued, whole records if there are as many."""
        unsent = self._unsent
        while unsent and self._encrypted < BATCH:
            data = unsent.popleft()
            room = -(-(BATCH - self._encrypted) // RECORD) * RECORD
            if len(data) > room:
                whole = memoryview(data)
                unsent.appendleft(whole[room:])
                data = whole[:room]
            self._tls.encrypt(data)
            self._encrypted += len(data)
        if self._encrypted > FEW and len(self._outgoing.view) == FEW:
            self._outgoing = Buffer(BATCH + _OVERHEAD)

    # Reading.

    def _read(self) -> bool:
        if self._tls.more or not self._cut:
            self._take_records()
        if self.ended:
            return False
        if self._leftover or self._tls.more:
            return True
        if self._cut:
            self._lost(self._cut)
            return False
        if not self._emptied:
            return True
        self._expect()
        return False

    def _take_records(self) -> None:
        """Decrypt what a turn allows, and hand it over. Sets ``_cut`` when no more can come."""
        unsendable = self._unsendable  # what answers to these bytes meet with, if it is over, is no cause
        if self._tls.more:
            count, reason = self._tls.decrypt_more(self._plain)
        else:
            size, end = self._fill()
            self._emptied = size < BATCH
            self._cut = end and (unsendable or end)
            if not size:
                return
            count, reason = self._tls.decrypt(self._incoming, size, self._plain)
        if count:
            self._bytes_received += count
            self._keepalive.heard(time.monotonic())
            self._received(self._plain.view[:count])
        self._records = records = self._tls.records_received
        if records >= self._mark:
            self._used(records)
        if not isinstance(reason, WantRead):
            if not self.ended:
                self._unsent.clear()
                self._push()  # OpenSSL's alert
            self._cut = unsendable or _explain(reason)
        elif self._tls.asides and not self.ended and self._are_too_many(self._tls.take_asides()):
            self._lost(unsendable or _TOO_MANY)  # with what is behind them

    def _are_too_many(self, asides: int) -> bool:
        return not self._asides.take(time.monotonic(), asides)

    def _fill(self) -> tuple[int, str]:
        """Read a batch, or what there is; how many bytes, and why no more will come, if so.

        Until the socket says that it is empty: uvloop tells of a reset only once, with the bytes before it.
        """
        view, size = self._incoming.view, 0
        try:
            while size < BATCH:
                if not (count := self._sock.recv_into(view[size:])):
                    return size, _CUT
                size += count
        except BlockingIOError:
            pass
        except OSError as error:
            return size, reason_of(error)
        return size, ""

    def _expect(self) -> None:
        """Ask not to be woken for less than a good piece of a frame that has begun: the rest surely comes.

        OpenSSL may have taken the beginning of a record out of the socket already: that much less comes.
        """
        least = EXPECTED if self._decoder.payload_left >= EXPECTED + RECORD else 1
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    # The end.

    def _say_goodbye(self) -> None:
        """Everything is sent: close_notify, and no more from our side."""
        self._tls.say_goodbye()
        if self._push():
            self._shut()
        else:
            self._wait_for_room()

    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed: once a turn, see LINGER."""
        try:
            if self._sock.recv_into(self._incoming.view):
                self._read_on()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()


_CUT = "it was closed without GOAWAY"
_TOO_MANY = f"the peer broke TLS: more than {ASIDES.burst} messages beside its frames"


def _explain(error: SSL.Error) -> str:
    reason = explain(error)
    if reason == CLOSED:
        return _CUT
    if reason.endswith("alert access denied"):
        return NOT_LISTED
    if is_alert(reason):
        return f"the peer refused it: {reason}; its log says more"
    return f"TLS failed: {reason}"

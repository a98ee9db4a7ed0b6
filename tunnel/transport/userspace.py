"""The userspace lane: OpenSSL on a non-blocking socket that the loop watches.

How a byte leaves: the pump's buffer → ``send`` encrypts it record by record (16 KiB), each straight into the
socket. How it arrives: ``read`` decrypts record by record into one contiguous buffer → the decoder → views of
that buffer. A record stays in the nearest cache from one end of that to the other, and no byte is copied but
by OpenSSL and the kernel. asyncio's own TLS transports copy every byte five to seven times; that is why they
are not used, and a memory BIO copies twice: docs/decisions.md has the figures.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections import deque
from contextlib import suppress

from tunnel.transport.lane import LINGER, Lane, LaneKind, view
from tunnel.transport.pace import Pace
from tunnel.wire.codes import KIB, MIB
from tunnel.wire.states import LaneState
from tunnel.wire.stream import Outgoing

BATCH = MIB
"""Plain bytes that are taken from the lane before they are passed on."""

EXPECTED = 256 * KIB
"""What to wait for inside a frame: each time we are woken costs the same, however little there is."""

RECORD = 16 * KIB
SMALL = 16 * KIB
"""Payload up to here shares a record with its header; more is not copied for that."""


class _Scratch(threading.local):
    """The buffer that all lanes of a thread share: nothing stays in it between two turns of its loop."""

    def __init__(self) -> None:
        self.plaintext = memoryview(bytearray(BATCH + RECORD))


_scratch = _Scratch()


class UserspaceLane(Lane):
    """See the contract in ``lane``."""

    kind = LaneKind.USERSPACE

    def __init__(self, tls: ssl.SSLSocket, peer: str, state: LaneState) -> None:
        super().__init__(tls, peer, state)
        self._tls = tls
        # Past SSLSocket's own methods, which are two more calls for each record of 16 KiB.
        self._decrypt, self._encrypt = tls._sslobj.read, tls._sslobj.write  # type: ignore[attr-defined]  # noqa: SLF001  see above
        self._plaintext = _scratch.plaintext
        self._pace = Pace()
        self._unsent: deque[bytes | memoryview] = deque()  # OpenSSL wants the first again, if ``_full``
        self._full = False  # the socket took no more: the loop watches for room
        self._unsendable = ""  # why nothing can be sent any more
        self._least = 1  # bytes that must be there before the loop is told
        self._next_read: asyncio.Handle | None = None
        self._lingering: asyncio.TimerHandle | None = None

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        found = self._tls.cipher()
        return found[0] if found else "none"

    @property
    def batch(self) -> int:
        """How many payload bytes one ``send`` should carry: about a millisecond of link time."""
        return self._pace.batch

    @property
    def room(self) -> bool:
        """Whether the socket took everything so far."""
        return not (self._full or self._unsendable or self._handler is None)

    def send_control(self, frames: bytes) -> None:
        """Queue whole control frames; they leave with the next ``send`` or ``flush``."""
        if not (self._ended or self._unsendable):
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

    def flush(self) -> None:
        """Encrypt and send what is queued, unless the socket is full."""
        if self._unsent and not self._full and not self._push():
            self._loop.add_writer(self._tls, self._writable)

    def _push(self) -> bool:
        """Offer what is queued to the socket; whether it took all. Until the last, it sends full segments."""
        unsent, sent = self._unsent, 0
        if corked := len(unsent) > 1:
            self._tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            while unsent:
                count = self._encrypt(unsent[0])
                sent += count
                if count < len(unsent[0]):
                    unsent[0] = memoryview(unsent[0])[count:]
                else:
                    unsent.popleft()
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._break_off(error)
            return True
        if corked:
            self._tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        self.bytes_sent += sent
        self._full = bool(unsent)
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        return not self._full

    def _break_off(self, error: OSError) -> None:
        """Nothing more can be sent. What the peer said before, say GOAWAY or an alert, is still to come."""
        self._unsent.clear()
        self._full = False
        self._unsendable = _explain(error)
        with suppress(OSError):
            self._shutdown(socket.SHUT_RDWR)
        self._read_on()

    def _writable(self) -> None:
        if not self._push():
            return
        self._loop.remove_writer(self._tls)
        self._answer()
        if self._handler is not None:
            self._tell(self._handler.on_writable)
        elif self._lingering is not None:
            self._say_goodbye()

    # Reading.

    def _start_reading(self) -> None:
        self._loop.add_reader(self._tls, self._readable)

    def _read_on(self) -> None:
        """Read again soon, whether or not the loop finds the socket readable."""
        if self._next_read is not None:
            self._next_read.cancel()
        self._next_read = self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        if self._lingering is not None:
            self._discard()
            return
        count, fault = self._fill()
        if count:
            self.bytes_received += count
            self._keepalive.heard(time.monotonic())
            self._received(self._plaintext[:count])
        if self._ended:
            return
        if fault:
            self._lost(self._unsendable or fault)
        elif count > BATCH:
            self._read_on()  # there may be no more news of it: uvloop tells of an error once
        else:
            self._expect()

    def _fill(self) -> tuple[int, str]:
        """Decrypt what has arrived, up to the buffer's size: how many bytes, and why no more will follow."""
        plain, decrypt, filled = self._plaintext, self._decrypt, 0
        try:
            while filled <= BATCH:
                count = decrypt(RECORD, plain[filled:])  # never more than a record
                if not count:  # TLS close_notify
                    return filled, "it was closed without GOAWAY"
                filled += count
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            return filled, _explain(error)
        return filled, ""

    def _expect(self) -> None:
        """Ask not to be woken for less than a good piece of a frame that has begun: the rest surely comes.

        OpenSSL may have taken the beginning of a record out of the socket already: that much less comes.
        """
        least = EXPECTED if self._decoder.payload_left >= EXPECTED + RECORD else 1
        if least != self._least:
            self._least = least
            self._tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    # The end.

    def _begin_linger(self) -> None:
        if self._tls.fileno() < 0 or self._lingering is not None:
            return
        self._lingering = self._loop.call_later(LINGER, self._release)
        self.flush()
        if not self._full:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Everything is sent: close_notify, and no more from our side."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantWriteError:
            self._full = True
            self._loop.add_writer(self._tls, self._writable)
            return
        except (OSError, ValueError):
            pass  # it wants the peer's close_notify, for which we do not wait
        try:
            self._shutdown(socket.SHUT_WR)
        except OSError:
            self._release()

    def _shutdown(self, how: int) -> None:
        """shutdown(2), and only that: SSLSocket's method would also forget the TLS state."""
        socket.socket.shutdown(self._tls, how)

    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed."""
        try:
            while socket.socket.recv_into(self._tls, self._plaintext):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()

    def _release(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        if self._next_read is not None:
            self._next_read.cancel()
        if self._tls.fileno() >= 0:
            self._loop.remove_reader(self._tls)
            self._loop.remove_writer(self._tls)
            self._tls.close()
            self.gone.set()


def _explain(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError):
        return "it was closed without GOAWAY"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if " alert " in reason:  # the only mark of what the peer sent
        return f"the peer refused it: {reason}; its log says more"
    return f"TLS failed: {reason}"

"""The userspace lane: OpenSSL through memory BIOs, the socket watched by the loop.

How a byte leaves: the pump's buffer → ``tls.write`` encrypts 256 KiB into the outgoing BIO → one ``bytes``
→ one ``send``. How it arrives: one ``recv_into`` of up to 256 KiB → the incoming BIO →
``tls.read``, a record (16 KiB) at a time, into one contiguous buffer → the decoder → views of that buffer.
Each of these calls releases the interpreter lock or moves at least a record. asyncio's own TLS transports
copy every byte five to seven times; that is why they are not used.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from tunnel.transport.handshake import TlsEnd
from tunnel.transport.lane import LINGER, Lane, LaneKind, view
from tunnel.transport.pace import Pace
from tunnel.wire.codes import KIB
from tunnel.wire.states import LaneState
from tunnel.wire.stream import Outgoing

CIPHER_READ = 256 * KIB
"""Bytes per read from the socket: as much as stays in a core's cache on its way through."""

CHUNK = 256 * KIB
"""Payload that is encrypted and offered to the socket at a time, while it is in the cache."""

EXPECTED = 192 * KIB
"""What to wait for inside a frame: each time we are woken costs the same, however little there is."""

RECORD = 16 * KIB
SMALL = 16 * KIB
"""Payload up to here shares a record with its header; more is not copied for that."""


class _Scratch(threading.local):
    """Buffers that all lanes of a thread share: nothing stays in them between two turns of its loop."""

    def __init__(self) -> None:
        self.ciphertext = memoryview(bytearray(CIPHER_READ))
        self.plaintext = memoryview(bytearray(CIPHER_READ + RECORD))


_scratch = _Scratch()


class UserspaceLane(Lane):
    """See the contract in ``lane``."""

    kind = LaneKind.USERSPACE

    def __init__(self, sock: socket.socket, end: TlsEnd, peer: str, state: LaneState) -> None:
        super().__init__(sock, peer, state)
        self._tls = end.tls
        # With a buffer given, it returns how many bytes it put there: at most one record.
        self._read = cast("Callable[[int, memoryview], int]", end.tls.read)
        self._incoming = end.incoming
        self._outgoing = end.outgoing
        self._ciphertext = _scratch.ciphertext
        self._plaintext = _scratch.plaintext
        self._pace = Pace()
        self._unsent = memoryview(b"")  # ciphertext that the socket did not take
        self._least = 1  # bytes that must be there before the loop is told
        self._unsendable = ""  # why nothing can be sent any more
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
        return not (self._unsent or self._unsendable or self._ended)

    def send_control(self, frames: bytes) -> None:
        """Encrypt whole control frames; they leave with the next ``send`` or ``flush``."""
        if not self._ended:
            self._tls.write(frames)

    def send(self, outgoing: Outgoing) -> None:
        """Encrypt a DATA frame and send it."""
        if self._ended:
            return
        payload = view(outgoing.piece)
        if len(payload) <= SMALL:
            self._tls.write(outgoing.header + payload)
            self.flush()
            return
        self._tls.write(outgoing.header)
        for start in range(0, len(payload), CHUNK):
            self._tls.write(payload[start : start + CHUNK])
            self.flush()

    def flush(self) -> None:
        """Send what is encrypted, behind what the socket has not taken yet."""
        if not (self._unsent or self._unsendable) and self._outgoing.pending:
            self._unsent = memoryview(self._outgoing.read())
            self._push()
            if self._unsent:
                self._loop.add_writer(self._sock, self._writable)

    def _push(self) -> None:
        """Offer ``_unsent`` to the socket, once."""
        try:
            count = self._sock.send(self._unsent)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self._break_off(error)
            return
        self.bytes_sent += count
        self._unsent = self._unsent[count:]
        self._pace.sent(count, self._loop.time(), congested=bool(self._unsent))

    def _break_off(self, error: OSError) -> None:
        """Nothing more can be sent. What the peer said before, say GOAWAY or an alert, is still to come."""
        self._unsent = memoryview(b"")
        self._unsendable = error.strerror or str(error)
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._read_on()

    def _writable(self) -> None:
        self._push()
        if self._unsent:
            return
        if self._outgoing.pending and not self._unsendable:
            self._unsent = memoryview(self._outgoing.read())
            return  # still watched: the loop calls again
        self._loop.remove_writer(self._sock)
        self._answer()
        if self._handler is not None:
            self._handler.on_writable(self)
        elif self._lingering is not None:
            self._shut_down()

    # Reading.

    def _start_reading(self) -> None:
        self._loop.add_reader(self._sock, self._readable)
        self._loop.call_soon(self._decrypt)  # what came together with the end of the handshake

    def _read_on(self) -> None:
        """Read again soon, until there is nothing: uvloop stops watching a socket that had an error.

        So data with a reset behind it would be read, and the reset never be seen.
        """
        if self._next_read is not None:
            self._next_read.cancel()
        self._next_read = self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        try:
            count = self._sock.recv_into(self._ciphertext)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        if count:
            self._read_on()
        if self._lingering is not None:
            if not count:
                self._release()
            return  # what still comes is of no use
        if not count:
            self._lost(self._unsendable or "it was closed without GOAWAY")
            return
        self.bytes_received += count
        self._keepalive.heard(self._loop.time())
        self._incoming.write(self._ciphertext[:count])
        self._decrypt()
        self._expect()

    def _expect(self) -> None:
        """Ask not to be woken for less than a good piece of a frame that has begun: the rest surely comes."""
        least = EXPECTED if self._decoder.payload_left >= EXPECTED else 1
        if least != self._least and self._sock.fileno() >= 0:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _decrypt(self) -> None:
        """Decrypt everything that is complete, a buffer at a time."""
        plain, fault, read = self._plaintext, "", self._read
        more = True
        while more and not self._ended:
            filled = 0
            try:
                while more and filled <= CIPHER_READ:
                    count = read(RECORD, plain[filled:])
                    more = count > 0
                    filled += count
                if not more:  # TLS close_notify
                    fault = "it was closed without GOAWAY"
            except ssl.SSLWantReadError:
                more = False
            except ssl.SSLError as error:
                more, fault = False, _explain(error)
            self._received(plain[:filled])
        if fault and not self._ended:
            self._lost(fault)

    # The end.

    def _begin_linger(self) -> None:
        if self._sock.fileno() < 0 or self._lingering is not None:
            return
        self._lingering = self._loop.call_later(LINGER, self._release)
        with suppress(ssl.SSLError):  # it wants the peer's close_notify, for which we do not wait
            self._tls.unwrap()
        self.flush()
        if not self._unsent:
            self._shut_down()

    def _shut_down(self) -> None:
        """Everything is sent, close_notify too: no more from our side."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._release()

    def _release(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        if self._next_read is not None:
            self._next_read.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self.gone.set()


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError):
        return "it was closed without GOAWAY"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if " alert " in reason:  # the only mark of what the peer sent
        return f"the peer refused it: {reason}; its log says more"
    return f"TLS failed: {reason}"

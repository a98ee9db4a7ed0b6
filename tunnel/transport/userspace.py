"""The userspace lane: OpenSSL on a non-blocking socket that the loop watches.

How a byte leaves: the pump's buffer → ``send`` encrypts it record by record (16 KiB), each straight into the
socket. How it arrives: ``receive`` decrypts record by record into one contiguous buffer → the decoder →
views of that buffer. A record stays in the nearest cache from one end of that to the other, and no byte is
copied but by OpenSSL and the kernel. asyncio's own TLS transports copy every byte five to seven times; that
is why they are not used, and a memory BIO copies twice: docs/decisions.md has the figures.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time

from OpenSSL import SSL

from tunnel.transport.lane import LaneKind, view
from tunnel.transport.openssl import (
    CLOSED,
    RECORD,
    Buffer,
    TlsConnection,
    WantRead,
    WantWrite,
    explain,
    is_alert,
    is_broken,
)
from tunnel.transport.watched import WatchedLane
from tunnel.wire.codes import KIB, MIB
from tunnel.wire.states import LaneState
from tunnel.wire.stream import Outgoing

BATCH = MIB
"""Plain bytes that are taken from the lane before they are passed on."""

EXPECTED = 256 * KIB
"""What to wait for inside a frame: each time we are woken costs the same, however little there is."""

SMALL = 16 * KIB
"""Payload up to here shares a record with its header; more is not copied for that."""


class _Scratch(threading.local):
    """The buffer that all lanes of a thread share: nothing stays in it between two turns of its loop."""

    def __init__(self) -> None:
        self.plaintext = Buffer(BATCH + RECORD)


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
        self._plaintext = _scratch.plaintext if loop is None else Buffer(BATCH + RECORD)
        self._least = 1  # bytes that must be there before the loop is told

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._tls.cipher

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

    def _push(self) -> bool:
        """Offer what is queued to the socket; whether it took all. Until the last, it sends full segments."""
        unsent, sent = self._unsent, 0
        if corked := len(unsent) > 1:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        while unsent:
            if (reason := self._tls.send(unsent[0])) is None:
                sent += len(unsent.popleft())
            elif isinstance(reason, WantWrite | WantRead):
                break
            else:
                self._break_off(_explain(reason))
                return True
        if corked:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        self._bytes_sent += sent
        self._full = bool(unsent)
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        return not self._full

    # Reading.

    def _readable(self) -> None:
        if self._lingering is not None:
            self._discard()
            return
        count, reason = self._tls.receive(self._plaintext, BATCH)
        unsendable = self._unsendable  # what answers to these bytes meet with, if it is over, is no cause
        if count:
            self._bytes_received += count
            self._keepalive.heard(time.monotonic())
            self._received(self._plaintext.view[:count])
        if self._ended:
            return
        if reason is None:
            self._read_on()  # there may be no more news of it: uvloop tells of an error once
        elif isinstance(reason, WantRead | WantWrite):
            self._expect()
        else:
            self._lost(unsendable or _explain(reason))

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
        try:
            self._tls.say_goodbye()
        except WantWrite:
            self._wait_for_room()
            return
        except SSL.Error:
            pass  # the connection is broken already
        self._shut()

    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed: once a turn, see LINGER."""
        try:
            if self._sock.recv_into(self._plaintext.view):
                self._read_on()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()


def _explain(error: SSL.Error) -> str:
    reason = explain(error)
    if reason == CLOSED:
        return "it was closed without GOAWAY"
    if is_alert(reason):
        return f"the peer refused it: {reason}; its log says more"
    return reason if is_broken(error) else f"TLS failed: {reason}"

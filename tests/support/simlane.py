"""Lanes over simulated sockets, without TLS: the product's lane except for socket reads and writes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import cast

from tests.support.simloop import SimLoop, Socket
from tunnel.errors import LaneLost
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.quanta import Turn
from tunnel.net.sockets import reason_of
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB
from tunnel.wire.codec import parse_header
from tunnel.wire.codes import HEADER_SIZE, FrameType
from tunnel.wire.payload import Outgoing, copied
from tunnel.wire.states import LaneState

HANDSHAKE_TIMEOUT = 10.0
"""Timeout in seconds, as for TLS."""

Said = Callable[["SimLane", FrameType], None]


class SimLane(BaseLane[bytes]):
    """A lane over a simulated socket. ``said`` is called for each control frame before it is sent."""

    kind = LaneKind.USERSPACE
    cipher = "none"
    batch = 64 * KIB
    records_sent = records_received = 0

    def __init__(self, sock: Socket, peer: str, state: LaneState, said: Said) -> None:
        super().__init__(cast("socket.socket", sock), peer, state)
        self.sock = sock
        self._turn = Turn(self._loop.time)
        self._said = said

    def send_control(self, frames: bytes) -> None:
        if frames and not (self.ended or self._unsendable):
            for kind in _kinds(frames):
                self._said(self, kind)
            self._unsent.append(frames)

    def send(self, outgoing: Outgoing) -> None:
        if self._handler is None or self._unsendable:
            return
        self._unsent.append(outgoing.header + copied(outgoing.piece.content))
        self.flush()

    def _push(self) -> bool:
        self._full = False
        try:
            while self._unsent:
                data = self._unsent[0]
                count = self._sock.send(data)
                self._bytes_sent += count
                self._unsent.popleft()
                if count < len(data):
                    self._unsent.appendleft(data[count:])
        except BlockingIOError:
            self._full = True
        except OSError as error:
            self._break_off(reason_of(error))
            return True
        return not self._full

    def _read(self) -> bool:
        unsendable = self._unsendable
        try:
            data = self._sock.recv(64 * KIB)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(unsendable or reason_of(error))
            return False
        if not data:
            self._lost(unsendable or "closed without GOAWAY")
            return False
        self._heard(len(data))
        memory = bytearray(data)
        self._received(memoryview(memory))
        memory[:] = bytes(len(memory))
        return not self.ended

    def _say_goodbye(self) -> None:
        self._shut()

    def _discard(self) -> None:
        try:
            if self._sock.recv(64 * KIB):
                self._read_on()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()


def _kinds(frames: bytes) -> Iterator[FrameType]:
    position = 0
    while position < len(frames):
        header = parse_header(frames[position : position + HEADER_SIZE])
        yield header.type
        position += HEADER_SIZE + header.length


async def shake_hands(sock: Socket, *, dialing: bool) -> None:
    """Exchange as many messages as TLS, of one byte each. Raises LaneLost or OSError."""
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            for receives, byte in ((not dialing, b"C"), (dialing, b"S"), (not dialing, b"F")):
                if not receives:
                    sock.send(byte)
                elif await _next_byte(sock) != byte:
                    raise LaneLost("closed during the handshake")
    except TimeoutError:
        raise LaneLost("the handshake timed out") from None


async def _next_byte(sock: Socket) -> bytes:
    loop = cast("SimLoop", asyncio.get_running_loop())
    while True:
        try:
            return sock.recv(1)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)

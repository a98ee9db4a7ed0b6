"""Lanes without TLS or network: data sent at one end is received at the other in the next loop iteration."""

from __future__ import annotations

import socket

from tunnel.lanes.base_lane import BaseLane
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import MIB
from tunnel.wire.codec import encode
from tunnel.wire.frames import Frame
from tunnel.wire.payload import Outgoing, copied
from tunnel.wire.states import LaneState


class PipeLane(BaseLane[bytes]):
    """One end. ``room`` is set by the test; ``said`` is all data that was sent."""

    kind = LaneKind.USERSPACE
    cipher = "none"
    batch = MIB
    room = True
    records_sent = records_received = 0  # likewise

    def __init__(self, peer: str, state: LaneState) -> None:
        sock, other = socket.socketpair()
        other.close()
        super().__init__(sock, peer, state)
        self.said = bytearray()
        self.aborted = False
        self.far: PipeLane | None = None
        self._out = bytearray()

    def send_control(self, frames: bytes) -> None:
        self._out += frames

    def send(self, outgoing: Outgoing) -> None:
        self._out += outgoing.header + copied(outgoing.piece.content)
        self.flush()

    def flush(self) -> None:
        raw, self._out = bytes(self._out), bytearray()
        self.said += raw
        if raw and self.far is not None:
            self._loop.call_soon(self.far.receive, raw)

    def say(self, *frames: Frame) -> None:
        """Send frames without sequence numbers, like a peer without a session."""
        for frame in frames:
            self.send_control(encode(frame))
        self.flush()

    def receive(self, raw: bytes) -> None:
        """Receive bytes, and then overwrite their memory, as the contract of lanes allows."""
        buffer = bytearray(raw)
        self._received(memoryview(buffer))
        buffer[:] = bytes(len(buffer))

    def cut(self, *, noticed: bool = True) -> None:
        """Lose the connection with the data in transit; without ``noticed`` only the peer detects it."""
        far, self.far = self.far, None
        if far is not None:
            far.far = None
            far._lost("cut by the test")
        if noticed:
            self._lost("cut by the test")

    def abort(self) -> None:
        self.aborted = True
        super().abort()

    def _start_reading(self) -> None: ...

    def _push(self) -> bool:
        return True

    def _read(self) -> bool:
        return False

    def _say_goodbye(self) -> None: ...

    def _discard(self) -> None: ...

    def _begin_linger(self) -> None:
        self.flush()
        self._release()

    def _release(self) -> None:
        self._sock.close()
        self.gone.set()
        far, self.far = self.far, None
        if far is not None:
            far.far = None
            self._loop.call_soon(far._lost, "closed by the peer")


def pipe(
    dialing: str, accepting: str, state: LaneState = LaneState.AWAIT_WELCOME
) -> tuple[PipeLane, PipeLane]:
    """Return the ends of a new lane at hosts ``dialing`` and ``accepting``, in that order."""
    near, far = PipeLane(accepting, state), PipeLane(dialing, LaneState.AWAIT_FIRST)
    near.far, far.far = far, near
    return near, far

"""The ends of simulated lanes and of their streams, for ``wire``."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunnel.wire.codes import Code
from tunnel.wire.events import Event, StreamReleased
from tunnel.wire.lane_protocol import LaneProtocol
from tunnel.wire.states import LaneState


@dataclass
class Local:
    """One hypervisor connection at one end: data to send, and received data."""

    number: int
    backlog: int = 0  # bytes to send
    sent: int = 0
    inbox: bytearray = field(default_factory=bytearray)  # received, not delivered
    taken: int = 0  # bytes delivered
    events: list[type[Event]] = field(default_factory=list)
    released: int = 0  # bytes delivered by the peer, as reported by the session
    opened: bool = False
    finished: bool = False
    gone: bool = False

    @property
    def order(self) -> str:
        """The events so far, for comparison, except for one that may occur at any time, or never."""
        telling = [kind for kind in self.events if kind is not StreamReleased]
        return " ".join(kind.__name__.removeprefix("Stream") for kind in telling)


class LaneEnd:
    """One end of a lane: implements MemberLane. ``out`` is the data in transit.

    ``rotates``: dialled to replace a lane that is up.
    """

    records_sent = records_received = 0
    since = 0.0
    remote = "192.0.2.1"

    def __init__(self, state: LaneState, *, rotates: bool = False) -> None:
        self.epoch = 0
        self.replaces = 0
        self.rotates = rotates
        self.interrupted = False
        self.ended = False
        self.out = bytearray()
        self.protocol = LaneProtocol(state, 0.0)

    def send_control(self, frames: bytes) -> None:
        assert not self.ended
        self.out += frames

    def flush(self) -> None:
        """Nothing to do: the network moves ``out``."""

    def close(self, code: Code, reason: str) -> None:
        self.out += self.protocol.close(code, reason, 0.0)
        self.ended = True

    def abort(self) -> None:
        self.out.clear()
        self.ended = True

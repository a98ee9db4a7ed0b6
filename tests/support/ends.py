"""The ends of simulated lanes and of their streams, for ``wire``."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunnel.wire.events import Event, StreamReleased
from tunnel.wire.frames import Replace
from tunnel.wire.lane_protocol import Decoder
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


@dataclass
class LaneEnd:
    """One end of a lane. ``out`` is the data in transit."""

    epoch: int
    replaces: int
    state: LaneState
    gentle: bool = False  # at the initiator: dialled to replace a lane that is up
    claim: Replace | None = None  # at the acceptor: not in use yet, see SPEC.md on rotation
    retired: bool = False  # RETIRE was sent: sends no more data
    heard: bool = False  # RETIRE was received
    settled: bool = False  # RETIRED was received
    decoder: Decoder = field(default_factory=Decoder)
    out: bytearray = field(default_factory=bytearray)

    @property
    def carries(self) -> bool:
        return self.state is LaneState.ATTACHED and self.claim is None and not self.retired

    @property
    def closed(self) -> bool:
        return self.heard and self.settled

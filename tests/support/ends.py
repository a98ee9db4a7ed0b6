"""The ends of simulated lanes, and of what runs over them: see ``wire``."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunnel.wire.decoder import Decoder
from tunnel.wire.events import Event, StreamReleased
from tunnel.wire.frames import Replace
from tunnel.wire.states import LaneState


@dataclass
class Local:
    """One hypervisor connection at one end: what it has yet to say, and what has come for it."""

    number: int
    backlog: int = 0  # bytes that it wants to send
    sent: int = 0
    inbox: bytearray = field(default_factory=bytearray)  # arrived, not delivered
    taken: int = 0  # bytes delivered
    events: list[type[Event]] = field(default_factory=list)
    released: int = 0  # what the peer delivered, as the session told
    opened: bool = False
    finished: bool = False
    gone: bool = False

    @property
    def order(self) -> str:
        """The events so far, for comparing; but for one that may come at any time, or never."""
        telling = [kind for kind in self.events if kind is not StreamReleased]
        return " ".join(kind.__name__.removeprefix("Stream") for kind in telling)


@dataclass
class LaneEnd:
    """One end of a lane. ``out`` is what left it and did not arrive yet."""

    epoch: int
    replaces: int
    state: LaneState
    gentle: bool = False  # the initiator's: dialled in place of a lane that lives
    claim: Replace | None = None  # the acceptor's: carries nothing yet, see SPEC.md on rotation
    retired: bool = False  # RETIRE is said: carries nothing more
    heard: bool = False  # the peer's RETIRE
    settled: bool = False  # the peer's RETIRED
    decoder: Decoder = field(default_factory=Decoder)
    out: bytearray = field(default_factory=bytearray)

    @property
    def carries(self) -> bool:
        return self.state is LaneState.ATTACHED and self.claim is None and not self.retired

    @property
    def closed(self) -> bool:
        return self.heard and self.settled

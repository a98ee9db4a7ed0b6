"""What a link is made from, and what may be seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tunnel.relay.address import AllowList
from tunnel.relay.pump import Pump
from tunnel.relay.rotation import RotationPlan
from tunnel.wire.session import Settings


class LinkState(StrEnum):
    """Whether streams can be opened."""

    DOWN = "down"
    UP = "up"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """What the configuration says about one peer. ``resume_window`` is in seconds, 0 for off.

    ``sessions`` is how many there is room for with this peer; ``number`` says which of them the link has: 0
    for the standing one, else a further one, of those that one of the two sides began.
    """

    host: str
    peer: str
    egress: AllowList
    settings: Settings = field(default_factory=Settings)
    resume_window: float = 30.0
    pump: type[Pump] = Pump
    rotation: RotationPlan = field(default_factory=RotationPlan)
    sessions: int = 1
    number: int = 0

"""Settings and state of a link."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tunnel.relay.allow_list import AllowList
from tunnel.relay.pump import Pump
from tunnel.relay.rotation import RotationPlan
from tunnel.wire.session import Settings


class LinkState(StrEnum):
    """The state of a link."""

    DOWN = "down"
    UP = "up"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """Settings of one link with a peer. ``resume_window`` is in seconds, 0 for off.

    ``sessions`` is the limit of sessions with this peer; ``number`` is that of the link's session: 0 for the
    primary one, otherwise an additional one, counted for each of the two sides.
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

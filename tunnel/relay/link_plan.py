"""Settings and state of a link."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tunnel.relay.allow_list import AllowList
from tunnel.relay.pump import Pump
from tunnel.relay.timeouts import Timeouts
from tunnel.wire.membership import MembershipPlan


class LinkState(StrEnum):
    """The state of a link."""

    DOWN = "down"
    UP = "up"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan(MembershipPlan):
    """Settings of one link with a peer. ``egress`` lists the targets that the peer may reach."""

    egress: AllowList = field(default_factory=AllowList)
    pump: type[Pump] = Pump
    timeouts: Timeouts = field(default_factory=Timeouts)

"""Lane rotation of both ends by SPEC.md section 8, for the hosts of ``wire``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from tests.support.ends import LaneEnd
from tunnel.wire.codec import encode
from tunnel.wire.events import Event
from tunnel.wire.frames import Replace, Resumed, Retire, Retired
from tunnel.wire.session import Session
from tunnel.wire.states import LaneState


class Rotating(ABC):
    """The part of a host that replaces lanes that are up."""

    initiator: bool
    lanes: dict[int, LaneEnd]

    @property
    @abstractmethod
    def session(self) -> Session: ...

    @abstractmethod
    def lose(self, epoch: int) -> LaneEnd | None: ...

    @abstractmethod
    def carrying(self) -> list[int]: ...

    @abstractmethod
    def note(self, events: Iterable[Event]) -> None: ...

    def _resumed(self, lane: LaneEnd, answer: Resumed) -> None:
        if lane.gentle and lane.replaces not in self.carrying():
            del self.lanes[lane.epoch]  # the old lane was lost meanwhile
            return
        self.note(self.session.rejoin(answer))
        if lane.gentle:
            old = self.lanes[lane.replaces]
            old.retired = True
            old.out += encode(Retire())

    def _lives(self, epoch: int) -> bool:
        lane = self.lanes.get(epoch)
        if lane is not None and lane.claim is not None:
            self.lose(lane.replaces)
        return epoch in self.carrying()

    def _stand_by(self, lane: LaneEnd, claim: Replace) -> None:
        for old in list(self.lanes.values()):
            if old.claim is not None and old.replaces == claim.replaces:
                self.lose(old.epoch)
        lane.replaces, lane.claim = claim.replaces, claim
        lane.out += encode(self.session.resumed(claim.epoch, claim.replaces))
        lane.state = LaneState.ATTACHED

    def _take_over(self, epoch: int) -> None:
        for lane in self.lanes.values():
            if lane.claim is not None and lane.replaces == epoch:
                claim, lane.claim = lane.claim, None
                self.note(self.session.rejoin(claim))

    def _on_retire(self, lane: LaneEnd) -> None:
        lane.out += encode(Retired())
        if not lane.retired:
            assert not self.initiator
            lane.retired = True
            lane.out += encode(Retire())
            self._take_over(lane.epoch)
        lane.heard = True

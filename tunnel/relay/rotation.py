"""Rotation: replace lanes that are up, make before break, so that no TLS key protects too many records.

AES-GCM may protect 2**24.5 records with one key (RFC 8446 section 5.5), and a lane's keys are never updated:
OpenSSL does not count records, and kernels before 6.14 cannot change keys. So a lane is replaced by a new one
after a number of records, after a time, and when certificates are renewed. The initiator dials; the acceptor
may request it. Nothing is lost or sent twice, and streams are not interrupted (SPEC section 8)::

    initiator                                 acceptor
    new lane: REPLACE           →
                                ←             new lane: RESUMED; on standby
    sends on the new lane only
    old lane: RETIRE            →             sends on the new lane only
                                ←             old lane: RETIRED, RETIRE
    old lane: RETIRED           →
    closes the old lane                       closes the old lane

If the peer does not support REPLACE, the initiator sends RESUME, as for a lost lane: data in flight on the
old lane is sent again. As initiator such a peer replaces nothing: its lanes are lost at ``KEY_LIMIT``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from tunnel.errors import LaneLost, ProtocolError, TunnelError
from tunnel.lanes.lane import KEY_LIMIT, Lane, LaneHandler
from tunnel.relay.incidents import IncidentKind
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Replace, Resume, Resumed, Retire, Retired, Rotate, RotationFrame
from tunnel.wire.session import Session

ASKED_RECORDS = 1024
ASKED_AGE = 10.0
"""Least records, or else age in seconds, of a lane at which the peer's ROTATE is honoured."""

PATIENCE = 300.0
"""Seconds that a retiring lane may take to deliver what is in flight on it."""

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """When to replace a lane: after ``records`` with one key, and ``after`` so many seconds (0: never)."""

    records: int = 2**22
    after: float = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Rotated:
    """A completed replacement of a lane."""

    at: str  # UTC, ISO 8601
    lane: int
    reason: str


class RotationOwner(LaneHandler, Protocol):
    """What rotation needs from its link. ``lanes`` are those that carry the session."""

    session: Session | None
    lanes: dict[int, Lane]
    changed: asyncio.Event
    peer: str

    @property
    def features(self) -> Feature:
        """The negotiated features."""

    @property
    def wants_lane(self) -> bool:
        """Whether this host is to dial another lane."""

    def attach(self, lane: Lane, epoch: int) -> None:
        """Become the handler of a lane, which is number ``epoch`` of the session."""

    def rejoin(self, lane: Lane, peer: Resume) -> None:
        """Use an attached lane for the session, and apply the peer's positions. Raises ProtocolError."""

    def give_up_lane(self, session: Session, epoch: int) -> None:
        """Abort a lane."""

    def wait_for_lane(self, session: Session) -> None:
        """Handle one lane less, perhaps the last."""

    def kick(self) -> None:
        """Schedule sending."""

    def end_for(self, reason: TunnelError, session: Session) -> None:
        """End the session for the reason that ended a lane."""

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""


@dataclass(slots=True)
class _Leaving:
    """A retiring lane."""

    lane: Lane
    since: float
    heard: bool = False  # the peer's RETIRE received: it sends no more
    settled: bool = False  # the peer's RETIRED received: nothing of ours is in flight


class Rotation:
    """Replaces the lanes of one link by ROTATE, REPLACE, RETIRE and RETIRED. ``clock`` is in seconds."""

    def __init__(
        self,
        owner: RotationOwner,
        plan: RotationPlan,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.count = 0
        self.last: Rotated | None = None
        self.most_records = 0  # with one key, of lanes that are gone
        self.attempt: asyncio.Task[None] | None = None  # to replace a lane
        self._owner = owner
        self._log = log
        self._clock = clock
        self._due: dict[int, str] = {}  # lanes to be replaced, and why
        self._standby: dict[int, tuple[Lane, Resume]] = {}  # by epoch of the lane to be replaced
        self._leaving: dict[int, _Leaving] = {}
        self._closing: list[Lane] = []  # retired by both sides
        self._asked: Resume | None = None  # sent as initiator, and not answered

    @property
    def others(self) -> list[Lane]:
        """Lanes of the session on standby, or retiring."""
        return [lane for lane, _ in self._standby.values()] + [each.lane for each in self._leaving.values()]

    @property
    def closing(self) -> list[Lane]:
        """Replaced lanes whose sockets are not closed yet."""
        return [lane for lane in self._closing if not lane.gone.is_set()]

    @property
    def resuming(self) -> bool:
        """Whether a pending RESUME replaces a lane that is up: the peer ends that lane, which is expected."""
        return self._asked is not None and not isinstance(self._asked, Replace)

    def clear(self) -> None:
        """Reset all state: the session has ended."""
        for table in (self._due, self._standby, self._leaving):
            table.clear()
        self._asked = None
        self.interrupt()

    # When to replace.

    def watch(self, lane: Lane) -> None:
        """Have ``lane`` report when a key reaches the limit of the plan."""
        lane.warn_at(self.plan.records)

    def on_worn(self, lane: Lane) -> None:
        """Have ``lane`` replaced: key limit of the plan reached."""
        self._want(lane, f"{self.plan.records} records with one key")

    def rotate(self, reason: str, lanes: Iterable[Lane] | None = None) -> None:
        """Have ``lanes``, or all lanes of the session, replaced one by one. Repeated requests count once."""
        for lane in list(self._owner.lanes.values() if lanes is None else lanes):
            self._want(lane, reason)

    def tick(self, lane: Lane) -> None:
        """Check what no event reports. Call it every few seconds for each lane."""
        now = self._clock()
        for leaving in [each for each in self._leaving.values() if now - each.since >= PATIENCE]:
            self._give_up(leaving, f"lane {leaving.lane.epoch} timed out {PATIENCE:g} s after RETIRE")
        if max(lane.records_sent, lane.records_received) >= self.plan.records:
            self.on_worn(lane)  # of a kernel lane, only the kernel counts empty records
        if self.plan.after and now - lane.since >= self.plan.after:
            self._want(lane, f"keys in use for {self.plan.after / _HOUR:g} hours")
        if lane.epoch in self._due:
            self._ask(lane)

    def _want(self, lane: Lane, reason: str) -> None:
        if lane.epoch in self._due or self._owner.lanes.get(lane.epoch) is not lane:
            return
        self._due[lane.epoch] = reason
        self._ask(lane)
        if not (self._living().initiator or self._gentle):
            why = f"it is the initiator, and its version does not support rotation; {reason}"
            what = f"lane {lane.epoch} will be closed and resumed at {KEY_LIMIT} records"
            cause = f"{self._owner.peer} cannot replace it: {why}; {what}"
            self._owner.note(IncidentKind.LANE_NOT_REPLACED, cause)
        self._owner.changed.set()

    def _ask(self, lane: Lane) -> None:
        """Send ROTATE, if the peer is the initiator."""
        if self._gentle and not self._living().initiator and lane.epoch in self._owner.lanes:
            lane.send_control(encode(Rotate()))
            lane.flush()

    def _on_rotate(self, lane: Lane) -> None:
        if not self._living().initiator:
            raise ProtocolError(Code.PROTOCOL, "ROTATE from the initiator, which replaces lanes itself")
        used = max(lane.records_sent, lane.records_received)
        if used >= ASKED_RECORDS or self._clock() - lane.since >= ASKED_AGE:  # else the peer repeats it
            self._want(lane, "requested by the peer")

    # As initiator.

    def next(self) -> int:
        """Return the lane to replace now, 0 for none: one at a time, and only while all lanes are up."""
        session, owner = self._owner.session, self._owner
        if session is None or not session.initiator or owner.wants_lane or self._leaving:
            return 0
        return next((epoch for epoch in self._due if epoch in owner.lanes), 0)

    def claim(self, epoch: int, old: int) -> Resume:
        """Return the first frame of lane ``epoch``, which is to replace lane ``old``."""
        session = self._living()
        self._asked = session.resume(epoch, old, Replace if self._gentle else Resume)
        return self._asked

    def granted(self, lane: Lane, answer: Resumed) -> bool:
        """Handle RESUMED if it answers ``claim``: the new lane takes over. Raises ProtocolError.

        If the attempt was already abandoned, the new lane is aborted, and the old one continues.
        """
        asked, self._asked = self._asked, None
        if asked is None or asked.epoch != answer.epoch:
            is_late = answer.replaces in self._owner.lanes
            if is_late:
                lane.abort()
            return is_late
        old, owner = self._owner.lanes.get(answer.replaces), self._owner
        if old is None and isinstance(asked, Replace):
            lane.abort()  # on standby at the peer for a lane that is lost here: resume that one
            return True
        reason = self._due.pop(answer.replaces, "")
        if old is None or not isinstance(asked, Replace):
            owner.give_up_lane(self._living(), answer.replaces)
        owner.attach(lane, answer.epoch)
        owner.rejoin(lane, answer)
        if isinstance(asked, Replace) and old is not None:
            self._leave(old)
            _say(old, Retire())
        self._count(answer.replaces, answer.epoch, reason)
        return True

    def over(self) -> None:
        """Clear the attempt, which has succeeded or failed."""
        self.attempt = self._asked = None
        self._owner.changed.set()

    def failed(self, epoch: int, reason: str, pause: float) -> None:
        """Report a failed attempt; the next one follows after ``pause`` seconds."""
        goes_on = f"lane {epoch} stays in use, next attempt in {pause:g} s"
        why = self._due.get(epoch, "the lane is gone")
        self._owner.note(IncidentKind.LANE_NOT_REPLACED, f"{reason}; {goes_on}", due=why)

    def expects_loss_of(self, lane: Lane) -> bool:
        """Whether the peer will end ``lane``, because a pending RESUME replaces it."""
        return self.resuming and self._asked is not None and self._asked.replaces == lane.epoch

    def lost(self, lane: Lane) -> None:
        """Handle the loss of a lane that carried the session."""
        self.most_records = max(self.most_records, lane.records_sent, lane.records_received)
        if not self.expects_loss_of(lane):
            self._due.pop(lane.epoch, None)
            self.interrupt()  # resuming has priority
        self.take_over(lane.epoch)

    def interrupt(self) -> None:
        """Cancel the attempt to replace a lane, if there is one."""
        if self.attempt is not None:
            self.attempt.cancel()

    # As acceptor.

    def lives(self, epoch: int) -> bool:
        """Whether lane ``epoch`` is in use; if on standby, now it is: the peer lost the one before."""
        for old, (lane, _) in list(self._standby.items()):
            if lane.epoch == epoch:
                self._owner.lanes.pop(old).abort()
                self._living().lost(old)
                self.take_over(old)
        return epoch in self._owner.lanes

    def stand_by(self, lane: Lane, claim: Resume) -> None:
        """Answer REPLACE for a lane that is up: the new lane is on standby until the old one is retired."""
        session = self._living()
        if claim.replaces in self._standby:
            self._standby.pop(claim.replaces)[0].abort()  # the peer never received the answer on it
        lane.send_control(encode(session.resumed(claim.epoch, claim.replaces)))
        lane.replaces = claim.replaces
        self._standby[claim.replaces] = (lane, claim)
        self._owner.attach(lane, claim.epoch)
        lane.flush()

    def take_over(self, epoch: int) -> None:
        """Use the lane on standby for lane ``epoch``, if there is one."""
        if epoch in self._standby:
            lane, claim = self._standby.pop(epoch)
            try:
                self._owner.rejoin(lane, claim)
            except ProtocolError as error:  # which also ends the session
                lane.close(error.code, str(error))
                return
            self._count(epoch, lane.epoch, self._due.pop(epoch, "the peer replaced it"))

    def forget(self, epoch: int) -> list[Lane]:
        """Remove and return lane ``epoch`` if retiring or on standby, and the lane on standby for it."""
        found = [self._leaving.pop(epoch).lane] if epoch in self._leaving else []
        for old, (lane, _) in list(self._standby.items()):
            if epoch in (old, lane.epoch):
                del self._standby[old]
                found.append(lane)
        return found

    # As either.

    def on_frame(self, lane: Lane, frame: RotationFrame) -> None:
        """Handle ROTATE, RETIRE or RETIRED. Raises ProtocolError."""
        if not self._gentle:
            raise ProtocolError(Code.PROTOCOL, f"{frame.type.name} was not negotiated for this session")
        match frame:
            case Rotate():
                self._on_rotate(lane)
            case Retire():
                self._on_retire(lane)
            case Retired():
                self._on_retired(lane)

    def _on_retire(self, lane: Lane) -> None:
        leaving = self._leaving.get(lane.epoch)
        if leaving is not None:
            _say(lane, Retired())
        elif self._living().initiator or self._owner.lanes.get(lane.epoch) is not lane:
            raise ProtocolError(Code.PROTOCOL, "RETIRE for a lane that was not replaced")
        else:
            leaving = self._leave(lane)
            _say(lane, Retired(), Retire())
        leaving.heard = True
        self._close_if_empty(leaving)

    def _on_retired(self, lane: Lane) -> None:
        leaving = self._leaving.get(lane.epoch)
        if leaving is None or leaving.settled:
            raise ProtocolError(Code.PROTOCOL, "RETIRED without a RETIRE")
        leaving.settled = True
        self._living().retired(lane.epoch)
        self._close_if_empty(leaving)

    def _leave(self, lane: Lane) -> _Leaving:
        """Retire a lane: send nothing more on it."""
        for other in list(self._leaving.values()):  # never if the peer replaces one lane at a time
            self._give_up(other, f"lane {lane.epoch} is retiring as well")
        del self._owner.lanes[lane.epoch]
        leaving = self._leaving[lane.epoch] = _Leaving(lane, self._clock())
        self.take_over(lane.epoch)
        self._due.pop(lane.epoch, None)
        self.most_records = max(self.most_records, lane.records_sent, lane.records_received)
        self._owner.wait_for_lane(self._living())
        return leaving

    def _close_if_empty(self, leaving: _Leaving) -> None:
        if leaving.heard and leaving.settled:
            del self._leaving[leaving.lane.epoch]
            leaving.lane.close(Code.NONE, "the lane was replaced")
            self._closing = [*self.closing, leaving.lane]
            self._owner.changed.set()

    def ended(self, lane: Lane, reason: TunnelError) -> bool:
        """Handle the end of a lane that was on standby or retiring; False for any other."""
        if lane not in self.others:
            return False
        leaving = lane.epoch in self._leaving
        self.forget(lane.epoch)
        if not isinstance(reason, LaneLost):
            self._owner.end_for(reason, self._living())
        elif leaving:
            self._living().lost(lane.epoch)
            self._owner.kick()
        self._log.info("lane lost", lane=lane.epoch, reason=str(reason))
        self._owner.changed.set()
        return True

    def _give_up(self, leaving: _Leaving, reason: str) -> None:
        """Abort a retiring lane; what is in flight on it is sent again."""
        del self._leaving[leaving.lane.epoch]
        leaving.lane.abort()
        self._living().lost(leaving.lane.epoch)
        self._log.info("lane given up", lane=leaving.lane.epoch, reason=reason)
        self._owner.kick()
        self._owner.changed.set()

    def _count(self, old: int, new: int, reason: str) -> None:
        self.count += 1
        self.last = Rotated(datetime.now(UTC).isoformat(timespec="milliseconds"), old, reason)
        self._log.info("lane replaced", lane=old, by=new, reason=reason)

    @property
    def _gentle(self) -> bool:
        """Whether the peer supports REPLACE and RETIRE."""
        return Feature.ROTATE in self._owner.features

    def _living(self) -> Session:
        session = self._owner.session
        assert session is not None  # noqa: S101  without a session there are no lanes
        return session


def _say(lane: Lane, *frames: RotationFrame) -> None:
    lane.send_control(b"".join(map(encode, frames)))
    lane.flush()

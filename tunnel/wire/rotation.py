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

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol

from tunnel.errors import LaneLost, ProtocolError, TunnelError
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Replace, Resume, Resumed, Retire, Retired, Rotate, RotationFrame
from tunnel.wire.membership_owner import L, MemberLane, MembershipOwner
from tunnel.wire.session import Session

KEY_LIMIT = 5 << 22
"""Maximum records of one key. AES-GCM may protect 2**24.5 (RFC 8446 section 5.5): 13 % more than this, which
is far above what a lane sends or receives between two checks of the limit."""

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


class RotationSession(Protocol[L]):
    """The session whose lanes are replaced. ``lanes`` are those that carry it, by epoch."""

    session: Session | None
    lanes: dict[int, L]
    features: Feature

    @property
    def peer(self) -> str:
        """The peer's name."""

    @property
    def live_session(self) -> Session:
        """The session, of which there must be one."""

    @property
    def wants_lane(self) -> bool:
        """Whether this host is to dial another lane."""

    def rejoin(self, lane: L, peer: Resume) -> None:
        """Use an attached lane for the session, and apply the peer's positions. Raises ProtocolError."""

    def give_up_lane(self, session: Session, epoch: int) -> None:
        """Abort a lane."""

    def wait_for_lane(self) -> None:
        """Process one lane less, perhaps the last."""

    def end_for(self, reason: TunnelError, session: Session) -> None:
        """End the session for the reason that ended a lane."""


@dataclass(slots=True)
class _Retiring(Generic[L]):
    """A retiring lane."""

    lane: L
    since: float
    peer_retired: bool = False  # the peer's RETIRE received: it sends no more
    delivered: bool = False  # the peer's RETIRED received: nothing of ours is in flight


class Rotation(Generic[L]):
    """Replaces the lanes of a session by ROTATE, REPLACE, RETIRE and RETIRED. ``clock`` is in seconds."""

    def __init__(
        self,
        members: RotationSession[L],
        owner: MembershipOwner[L],
        plan: RotationPlan,
        clock: Callable[[], float],
    ) -> None:
        self.plan = plan
        self.most_records = 0  # with one key, of lanes that are gone
        self._members = members
        self._owner = owner
        self._clock = clock
        self._due: dict[int, str] = {}  # lanes to be replaced, and why
        self._standby: dict[int, tuple[L, Resume]] = {}  # by epoch of the lane to be replaced
        self._retiring: dict[int, _Retiring[L]] = {}
        self._pending: Resume | None = None  # sent as initiator, and not answered

    @property
    def others(self) -> list[L]:
        """Lanes of the session on standby, or retiring."""
        return [lane for lane, _ in self._standby.values()] + [each.lane for each in self._retiring.values()]

    @property
    def resuming(self) -> bool:
        """Whether a pending RESUME replaces a lane that is up: the peer ends that lane, which is expected."""
        return self._pending is not None and not isinstance(self._pending, Replace)

    def clear(self) -> None:
        """Reset all state: the session has ended."""
        for table in (self._due, self._standby, self._retiring):
            table.clear()
        self._pending = None
        self._owner.interrupt()

    # When to replace.

    def on_worn(self, lane: L) -> None:
        """Have ``lane`` replaced: key limit of the plan reached."""
        self._replace_later(lane, f"{self.plan.records} records with one key")

    def rotate(self, reason: str, lanes: Iterable[L] | None = None) -> None:
        """Have ``lanes``, or all lanes of the session, replaced one by one. Repeated requests count once."""
        for lane in list(self._members.lanes.values() if lanes is None else lanes):
            self._replace_later(lane, reason)

    def tick(self, lane: L) -> None:
        """Check what no event reports. Call it every few seconds for each lane."""
        now = self._clock()
        for retiring in [each for each in self._retiring.values() if now - each.since >= PATIENCE]:
            self._give_up(retiring, f"lane {retiring.lane.epoch} timed out {PATIENCE:g} s after RETIRE")
        if max(lane.records_sent, lane.records_received) >= self.plan.records:
            self.on_worn(lane)  # of a kernel lane, only the kernel counts empty records
        if self.plan.after and now - lane.since >= self.plan.after:
            self._replace_later(lane, f"keys in use for {self.plan.after / _HOUR:g} hours")
        if lane.epoch in self._due:
            self._request(lane)

    def _replace_later(self, lane: L, reason: str) -> None:
        if lane.epoch in self._due or self._members.lanes.get(lane.epoch) is not lane:
            return
        self._due[lane.epoch] = reason
        self._request(lane)
        if not (self._members.live_session.initiator or self._negotiated):
            why = f"it is the initiator, and its version does not support rotation; {reason}"
            what = f"lane {lane.epoch} will be closed and resumed at {KEY_LIMIT} records"
            self._owner.not_replaced(f"{self._members.peer} cannot replace it: {why}; {what}", reason)
        self._owner.changed()

    def _request(self, lane: L) -> None:
        """Send ROTATE, if the peer is the initiator."""
        if (
            self._negotiated
            and not self._members.live_session.initiator
            and lane.epoch in self._members.lanes
        ):
            lane.send_control(encode(Rotate()))
            lane.flush()

    def _on_rotate(self, lane: L) -> None:
        if not self._members.live_session.initiator:
            raise ProtocolError(Code.PROTOCOL, "ROTATE from the initiator, which replaces lanes itself")
        used = max(lane.records_sent, lane.records_received)
        if used >= ASKED_RECORDS or self._clock() - lane.since >= ASKED_AGE:  # else the peer repeats it
            self._replace_later(lane, "requested by the peer")

    # As initiator.

    def next_due(self) -> int:
        """Return the lane to replace now, 0 for none: one at a time, and only while all lanes are up."""
        session, members = self._members.session, self._members
        if session is None or not session.initiator or members.wants_lane or self._retiring:
            return 0
        return next((epoch for epoch in self._due if epoch in members.lanes), 0)

    def next_claim(self, epoch: int, old: int) -> Resume:
        """Return the first frame of lane ``epoch``, which is to replace lane ``old``."""
        session = self._members.live_session
        self._pending = session.recovery.resume(epoch, old, Replace if self._negotiated else Resume)
        return self._pending

    def on_resumed(self, lane: L, answer: Resumed) -> bool:
        """Handle RESUMED if it answers ``claim``: the new lane takes over. Raises ProtocolError.

        If the attempt was already abandoned, the new lane is aborted, and the old one continues.
        """
        asked, self._pending = self._pending, None
        if asked is None or asked.epoch != answer.epoch:
            is_late = answer.replaces in self._members.lanes
            if is_late:
                lane.abort()
            return is_late
        old, members = self._members.lanes.get(answer.replaces), self._members
        if old is None and isinstance(asked, Replace):
            lane.abort()  # on standby at the peer for a lane that is lost here: resume that one
            return True
        reason = self._due.pop(answer.replaces, "")
        if old is None or not isinstance(asked, Replace):
            members.give_up_lane(members.live_session, answer.replaces)
        self._owner.attach(lane, answer.epoch)
        members.rejoin(lane, answer)
        if isinstance(asked, Replace) and old is not None:
            self._retire(old)
            _send(old, Retire())
        self._owner.replaced(answer.replaces, answer.epoch, reason)
        return True

    def attempt_ended(self) -> None:
        """Clear the attempt, which has succeeded or failed."""
        self._pending = None
        self._owner.changed()

    def attempt_failed(self, epoch: int, reason: str, pause: float) -> None:
        """Report a failed attempt; the next one follows after ``pause`` seconds."""
        goes_on = f"lane {epoch} stays in use, next attempt in {pause:g} s"
        why = self._due.get(epoch, "the lane is gone")
        self._owner.not_replaced(f"{reason}; {goes_on}", why)

    def expects_loss_of(self, lane: L) -> bool:
        """Whether the peer will end ``lane``, because a pending RESUME replaces it."""
        return self.resuming and self._pending is not None and self._pending.replaces == lane.epoch

    def lost(self, lane: L) -> None:
        """Handle the loss of a lane that carried the session."""
        self.most_records = max(self.most_records, lane.records_sent, lane.records_received)
        if not self.expects_loss_of(lane):
            self._due.pop(lane.epoch, None)
            self._owner.interrupt()  # resuming has priority
        self.take_over(lane.epoch)

    # As acceptor.

    def is_up(self, epoch: int) -> bool:
        """Whether lane ``epoch`` is in use; if on standby, now it is: the peer lost the one before."""
        for old, (lane, _) in list(self._standby.items()):
            if lane.epoch == epoch:
                self._members.lanes.pop(old).abort()
                self._members.live_session.recovery.lost(old)
                self.take_over(old)
        return epoch in self._members.lanes

    def stand_by(self, lane: L, claim: Resume) -> None:
        """Answer REPLACE for a lane that is up: the new lane is on standby until the old one is retired."""
        session = self._members.live_session
        if claim.replaces in self._standby:
            self._standby.pop(claim.replaces)[0].abort()  # the peer never received the answer on it
        lane.send_control(encode(session.recovery.resumed(claim.epoch, claim.replaces)))
        lane.replaces = claim.replaces
        self._standby[claim.replaces] = (lane, claim)
        self._owner.attach(lane, claim.epoch)
        lane.flush()

    def take_over(self, epoch: int) -> None:
        """Use the lane on standby for lane ``epoch``, if there is one."""
        if epoch in self._standby:
            lane, claim = self._standby.pop(epoch)
            try:
                self._members.rejoin(lane, claim)
            except ProtocolError as error:  # which also ends the session
                lane.close(error.code, str(error))
                return
            self._owner.replaced(epoch, lane.epoch, self._due.pop(epoch, "the peer replaced it"))

    def forget(self, epoch: int) -> list[L]:
        """Remove and return lane ``epoch`` if retiring or on standby, and the lane on standby for it."""
        found = [self._retiring.pop(epoch).lane] if epoch in self._retiring else []
        for old, (lane, _) in list(self._standby.items()):
            if epoch in (old, lane.epoch):
                del self._standby[old]
                found.append(lane)
        return found

    # As either.

    def on_frame(self, lane: L, frame: RotationFrame) -> None:
        """Handle ROTATE, RETIRE or RETIRED. Raises ProtocolError."""
        if not self._negotiated:
            raise ProtocolError(Code.PROTOCOL, f"{frame.type.name} was not negotiated for this session")
        match frame:
            case Rotate():
                self._on_rotate(lane)
            case Retire():
                self._on_retire(lane)
            case Retired():
                self._on_retired(lane)

    def _on_retire(self, lane: L) -> None:
        retiring = self._retiring.get(lane.epoch)
        if retiring is not None:
            _send(lane, Retired())
        elif self._members.live_session.initiator or self._members.lanes.get(lane.epoch) is not lane:
            raise ProtocolError(Code.PROTOCOL, "RETIRE for a lane that was not replaced")
        else:
            retiring = self._retire(lane)
            _send(lane, Retired(), Retire())
        retiring.peer_retired = True
        self._close_if_empty(retiring)

    def _on_retired(self, lane: L) -> None:
        retiring = self._retiring.get(lane.epoch)
        if retiring is None or retiring.delivered:
            raise ProtocolError(Code.PROTOCOL, "RETIRED without a RETIRE")
        retiring.delivered = True
        self._members.live_session.recovery.retired(lane.epoch)
        self._close_if_empty(retiring)

    def _retire(self, lane: L) -> _Retiring[L]:
        """Retire a lane: send nothing more on it."""
        for other in list(self._retiring.values()):  # never if the peer replaces one lane at a time
            self._give_up(other, f"lane {lane.epoch} is retiring as well")
        del self._members.lanes[lane.epoch]
        retiring = self._retiring[lane.epoch] = _Retiring(lane, self._clock())
        self.take_over(lane.epoch)
        self._due.pop(lane.epoch, None)
        self.most_records = max(self.most_records, lane.records_sent, lane.records_received)
        self._members.wait_for_lane()
        return retiring

    def _close_if_empty(self, retiring: _Retiring[L]) -> None:
        if retiring.peer_retired and retiring.delivered:
            del self._retiring[retiring.lane.epoch]
            retiring.lane.close(Code.NONE, "the lane was replaced")
            self._owner.closing(retiring.lane)
            self._owner.changed()

    def on_lane_end(self, lane: L, reason: TunnelError) -> bool:
        """Handle the end of a lane that was on standby or retiring; False for any other."""
        if lane not in self.others:
            return False
        retiring = lane.epoch in self._retiring
        self.forget(lane.epoch)
        if not isinstance(reason, LaneLost):
            self._members.end_for(reason, self._members.live_session)
        elif retiring:
            self._members.live_session.recovery.lost(lane.epoch)
            self._owner.kick()
        self._owner.info("lane lost", lane=lane.epoch, reason=str(reason))
        self._owner.changed()
        return True

    def _give_up(self, retiring: _Retiring[L], reason: str) -> None:
        """Abort a retiring lane; what is in flight on it is sent again."""
        del self._retiring[retiring.lane.epoch]
        retiring.lane.abort()
        self._members.live_session.recovery.lost(retiring.lane.epoch)
        self._owner.info("lane given up", lane=retiring.lane.epoch, reason=reason)
        self._owner.kick()
        self._owner.changed()

    @property
    def _negotiated(self) -> bool:
        """Whether the peer supports REPLACE and RETIRE."""
        return Feature.ROTATE in self._members.features


def _send(lane: MemberLane, *frames: RotationFrame) -> None:
    lane.send_control(b"".join(map(encode, frames)))
    lane.flush()

"""Which lanes make a session (SPEC.md section 8), without I/O: collision, epochs, resuming, giving up.

A session begins with HELLO and WELCOME on its first lane. It is begun by one of the two hosts, its
*initiator*, which also dials further lanes and replaces lost ones: RESUME, answered by RESUMED. Each lane has
a number, its epoch. Lanes that are up are replaced by ``Rotation``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic

from tunnel.errors import LaneLost, ProtocolError, RefusedError, TunnelError, WireError
from tunnel.wire import negotiation
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.duplicate_hosts import DuplicateHosts, DuplicateOutcome
from tunnel.wire.frames import Hello, Notice, Ping, Replace, Resume, Resumed, Welcome
from tunnel.wire.membership_owner import L, MembershipOwner
from tunnel.wire.rotation import Rotation, RotationPlan
from tunnel.wire.session import Session, Settings


@dataclass(frozen=True, slots=True)
class MembershipPlan:
    """Settings of a session of ``host`` with ``peer``.

    ``resume_window`` is in seconds, 0 for off; ``resume_grace`` is how many seconds longer the acceptor waits
    than the initiator keeps trying.

    ``sessions`` is the limit of sessions with this peer; ``number`` is that of this one: 0 for the primary
    one, otherwise an additional one, counted for each of the two sides.
    """

    host: str
    peer: str
    settings: Settings = field(default_factory=Settings)
    resume_window: float = 30.0
    resume_grace: float = 5.0
    rotation: RotationPlan = field(default_factory=RotationPlan)
    sessions: int = 1
    number: int = 0


class Membership(Generic[L]):
    """The session of one host with a peer, and its lanes. ``instance`` names this daemon: 16 random bytes.

    ``clock`` is in seconds, the one of ``MemberLane.since``.
    """

    def __init__(
        self, owner: MembershipOwner[L], plan: MembershipPlan, instance: bytes, clock: Callable[[], float]
    ) -> None:
        self.plan = plan
        self.session: Session | None = None
        self.lanes: dict[int, L] = {}  # by epoch: those that carry the session
        self.offer: Hello | None = None  # sent and not answered
        self.features = Feature.NONE  # negotiated
        self.sessions = 1  # that both sides allow
        self.peer_instance = b""
        self.places: set[str] = set()  # addresses of this session's lanes, past ones too
        self.duplicates = DuplicateHosts[L](owner, plan.peer, self.lanes, self.send_notice)
        self.rotation = Rotation[L](self, owner, plan.rotation, clock)
        self._owner = owner
        self.instance = instance
        self._memory = plan.settings.memory
        self._wanted = 1  # lanes that both sides allow
        self._newest = 0  # the last lane requested, whether or not it came up
        self._replacing = 0  # the lost lane that it replaces, or 0
        self._lost: deque[int] = deque()  # lanes to be replaced

    @property
    def peer(self) -> str:
        """The peer's name."""
        return self.plan.peer

    @property
    def all(self) -> list[L]:
        """All lanes of the session: also those on standby, or retiring."""
        return [*self.lanes.values(), *self.rotation.others]

    @property
    def lost_lanes(self) -> list[int]:
        """Lanes to be replaced, by epoch."""
        return list(self._lost)

    @property
    def live_session(self) -> Session:
        """The session, of which there must be one."""
        assert self.session is not None  # noqa: S101  without a session there are neither lanes nor streams
        return self.session

    def share(self, memory: int) -> None:
        """Limit memory to ``memory`` bytes in each direction, from now on: other sessions use the rest."""
        self._memory = memory
        if self.session is not None:
            self.session.share(memory)
            self._owner.kick()

    def holds(self, lane: L) -> bool:
        """Whether ``lane`` is one of the session, or may become the first of the next one."""
        return lane in self.all or self.duplicates.owns(lane)

    @property
    def _settings(self) -> Settings:
        """Settings of the next session."""
        return replace(self.plan.settings, memory=self._memory)

    # The first lane.

    def send_hello(self, lane: L, session: bytes) -> None:
        """Send HELLO to the peer that we dialled. ``session``: 16 random bytes."""
        limits = self.plan.settings.limits
        if self.plan.number:
            limits = replace(limits, streams=0)  # only the initiator opens streams in an additional session
        self.offer = negotiation.hello(session, self.instance, limits, self.plan.sessions, self.plan.number)
        lane.send_control(encode(self.offer))
        lane.flush()

    def on_welcome(self, lane: L, answer: Welcome) -> None:
        """Process WELCOME, the answer to our HELLO. Raises ProtocolError."""
        offer, self.offer = self.offer, None
        if offer is None:  # the peer has dialled us: end the session that this answer begins
            lane.send_control(encode(Ping(0)))  # GOAWAY as our first frame would end only the lane
            lane.close(Code.COLLISION, "another connection is in use")
            return
        negotiation.check_welcome(offer, answer)
        settings, features = replace(self._settings, limits=offer.limits), answer.features
        session = Session(offer.session, settings, answer.limits, initiator=True, features=features)
        self._establish(session, lane, answer)

    def on_hello(self, lane: L, offer: Hello) -> None:
        """Answer HELLO of a peer that dialled us. Raises ProtocolError."""
        if objection := self._objection(offer):
            lane.close(Code.COLLISION, objection)
            return
        limits, sessions = self.plan.settings.limits, self.plan.sessions
        answer = negotiation.welcome(offer, self.instance, limits, sessions)
        accept = partial(self._accept, lane, offer, answer, self.session)
        self.duplicates.judge(lane, offer.instance, accept)

    def _objection(self, offer: Hello) -> str:
        """Return why an offer is refused, "" if it may be accepted: SPEC.md section 8, Collision."""
        if self.session is None:
            # Both hosts dial at the same time: the one with the smaller name keeps its connection.
            preferred = self.offer is not None and self.plan.host < self.peer
        elif offer.instance != self.peer_instance:
            return self.duplicates.objection(offer.instance, ", ".join(sorted(self.places)))
        else:
            preferred = bool(self.lanes)
        return f"another connection with {self.plan.host} is in use" if preferred else ""

    def _accept(self, lane: L, offer: Hello, answer: Welcome, old: Session | None) -> None:
        """Begin the session that the peer offers, in place of ``old``, which it abandoned."""
        if self.session not in (None, old):  # it began after the objections were examined
            lane.close(Code.COLLISION, "another connection with this host is in use")
            return
        self.end(Code.COLLISION, f"{self.peer} began a new session")
        self.offer = None
        lane.send_control(encode(answer))
        features = answer.features
        session = Session(offer.session, self._settings, offer.limits, initiator=False, features=features)
        self._establish(session, lane, replace(offer, features=features))

    def _establish(self, session: Session, lane: L, peer: Hello | Welcome) -> None:
        """Begin ``session`` on ``lane``. ``peer`` has the other side's limits and the common features."""
        self.session = session
        self.peer_instance = peer.instance
        self.sessions = min(self.plan.sessions, peer.sessions)
        self.features = peer.features
        lanes = min(self.plan.settings.limits.lanes, peer.limits.lanes)
        self._wanted = lanes if Feature.RESUME in peer.features else 1  # RESUME adds all but the first
        self._newest = 1
        self._lost.clear()
        self.duplicates.forget()
        self.places.clear()
        self._owner.begin(session, lane)
        self._owner.attach(lane, 1)
        session.recovery.attach(1)
        self._carry(lane)

    def _carry(self, lane: L) -> None:
        self.lanes[lane.epoch] = lane
        self.places.add(self._owner.place(lane))
        self._owner.carry(lane)

    # Later lanes: they replace a lost one or one that is up, or are additional.

    @property
    def wants_lane(self) -> bool:
        """Whether this host is to dial another lane."""
        if self.session is None or not self.session.initiator or self.rotation.resuming:
            return False
        return len(self.lanes) < self._wanted

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer is expected to dial a lane: there is no session, or it may have more lanes."""
        return self.session is None or len(self.lanes) < self._wanted

    def send_resume(self, lane: L, replaces: int = 0) -> Session:
        """Send RESUME or REPLACE with our positions on a new lane. Return the session.

        The lane is to replace lane ``replaces``, which is up; 0: a lost lane, if there is one.
        """
        session = self.live_session
        self._newest += 1  # never reused: the peer may have attached a lane whose RESUMED was lost
        self._replacing = replaces or (self._lost[0] if self._lost else 0)
        claim = self.rotation.next_claim if replaces else session.recovery.resume
        lane.send_control(encode(claim(self._newest, self._replacing)))
        lane.flush()
        return session

    def on_resumed(self, lane: L, answer: Resumed) -> None:
        """Process RESUMED with the peer's positions. Raises ProtocolError."""
        self._check_answer(answer)
        if self.rotation.on_resumed(lane, answer):
            return
        self._resumed_by(lane, answer)
        if answer.replaces in self._lost:
            self._lost.remove(answer.replaces)

    def _check_answer(self, answer: Resumed) -> None:
        """Raise ProtocolError unless ``answer`` is for our last RESUME or REPLACE."""
        if self.session is None or answer.session != self.session.id:
            raise ProtocolError(Code.SESSION_UNKNOWN, "RESUMED for another session")
        if (answer.epoch, answer.replaces) != (self._newest, self._replacing):
            detail = f"lane {answer.epoch} replaces {answer.replaces}"
            requested = f"requested was {self._newest} replaces {self._replacing}"
            raise ProtocolError(Code.HANDSHAKE, f"RESUMED does not match: {detail}, {requested}")

    def on_resume(self, lane: L, claim: Resume) -> None:
        """Answer RESUME or REPLACE: the peer replaces a lane, or adds one. Raises ProtocolError."""
        session = self._claimed(claim)
        self._newest = claim.epoch
        if isinstance(claim, Replace) and self.rotation.is_up(claim.replaces):
            self.rotation.stand_by(lane, claim)
            return
        if claim.replaces:
            self.give_up_lane(session, claim.replaces)
        if len(self.lanes) >= self._wanted:
            raise ProtocolError(Code.HANDSHAKE, f"RESUME for lane {len(self.lanes) + 1} of {self._wanted}")
        lane.send_control(encode(session.recovery.resumed(claim.epoch, claim.replaces)))
        self._resumed_by(lane, claim)

    def _claimed(self, claim: Resume) -> Session:
        """Return the session that ``claim`` refers to. Raises ProtocolError if there is none."""
        session = self.session
        if session is None or claim.session != session.id or session.initiator:
            reason = f"{self.plan.host} has no such session with {self.peer}"
            raise ProtocolError(Code.SESSION_UNKNOWN, reason)
        if (Feature.ROTATE if isinstance(claim, Replace) else Feature.RESUME) not in self.features:
            raise ProtocolError(Code.HANDSHAKE, f"{claim.type.name} was not negotiated for this session")
        if claim.epoch <= self._newest or claim.replaces >= claim.epoch:
            detail = f"lane {claim.epoch} replaces {claim.replaces}, the newest is {self._newest}"
            raise ProtocolError(Code.HANDSHAKE, f"{claim.type.name} with invalid lane numbers: {detail}")
        return session

    def _resumed_by(self, lane: L, peer: Resume) -> None:
        """Attach a lane that replaces a lost one, or is additional."""
        self._owner.attach(lane, peer.epoch)
        self.rejoin(lane, peer)
        self._owner.resumed(lane)

    def rejoin(self, lane: L, peer: Resume) -> None:
        """Use an attached lane for the session, and apply the peer's positions. Raises ProtocolError."""
        session = self.live_session
        try:
            events = session.recovery.rejoin(peer)
        except ProtocolError as error:
            self._owner.end_soon(error.code, str(error), session)
            raise
        lane.replaces = peer.replaces
        self._carry(lane)
        self.duplicates.settle(DuplicateOutcome.IS_REFUSED)  # the daemon that has the session is up
        self._owner.rejoined(events)

    # NOTICE: text for the log of the other host. Its code is the subject, NONE for mere information.

    def send_notice(self, code: Code, reason: str) -> None:
        """Send NOTICE on one of the lanes, if there is one and the peer supports it."""
        for lane in list(self.lanes.values())[:1] if Feature.NOTICE in self.features else ():
            lane.send_control(encode(Notice(code, reason)))
            lane.flush()

    def on_notice(self, notice: Notice) -> None:
        """Log a NOTICE of the peer; a problem is an incident. Raises ProtocolError."""
        if Feature.NOTICE not in self.features:
            raise ProtocolError(Code.PROTOCOL, "NOTICE was not negotiated for this session")
        self._owner.told(f"{self.peer} reports: {notice.reason}", problem=notice.code is not Code.NONE)

    # The end of a lane, and of the session.

    def give_up_lane(self, session: Session, epoch: int) -> None:
        """Abort lane ``epoch``, and any lane that replaced it for which the peer never received RESUMED."""
        if epoch in self._lost:
            self._lost.remove(epoch)
        given_up = [old for old in self.lanes.values() if epoch in (old.epoch, old.replaces)]
        for old in [*given_up, *self.rotation.forget(epoch)]:
            self.lanes.pop(old.epoch, None)
            old.abort()
            session.recovery.lost(old.epoch)

    def on_lane_end(self, lane: L, reason: TunnelError) -> None:
        """Process the end of a lane: wait for another, or end the session."""
        if self.rotation.on_lane_end(lane, reason) or self.lanes.get(lane.epoch) is not lane:
            return
        del self.lanes[lane.epoch]
        session = self.live_session
        session.recovery.lost(lane.epoch)
        if session.initiator:
            self._lost.append(lane.epoch)
        expected = self.rotation.expects_loss_of(lane)
        if isinstance(reason, LaneLost) and (expected or self.lanes or self._may_resume()):
            if not expected:
                self._owner.lane_lost(str(reason))
            self.rotation.lost(lane)
            self.wait_for_lane()
        else:
            self.end_for(reason, session)

    def _may_resume(self) -> bool:
        return self.plan.resume_window > 0 and Feature.RESUME in self.features

    def wait_for_lane(self) -> None:
        """Process one lane less, perhaps the last."""
        self._owner.changed()
        if self.lanes:
            self._owner.kick()  # they carry what may be lost with it
            return
        window = self.plan.resume_window + (0 if self.live_session.initiator else self.plan.resume_grace)
        if self.rotation.resuming:  # the peer ends this lane, and its answer is in flight
            window = max(window, self.plan.resume_grace)
        self._owner.start_resume_window(window)
        self.duplicates.settle(DuplicateOutcome.TAKES_OVER)

    def end_for(self, reason: TunnelError, session: Session) -> None:
        """End the session for the reason that ended a lane."""
        code = reason.code if isinstance(reason, WireError | RefusedError) else None
        self.end(Code.LINK_LOST if code is None else code, str(reason), session)

    def end(self, code: Code, reason: str, session: Session | None = None) -> None:
        """End the session, if there is one: every stream is reset, on both sides.

        If ``session`` is given, only that one is ended, so that a late event does not affect a later session.
        """
        if self.session is None or session not in (None, self.session):
            return
        self.session = None
        for lane in self.all:
            lane.close(code, reason)
        self.lanes.clear()
        self.rotation.clear()
        self._owner.ended(code, reason)

"""A link: all that this host has with one peer. A session, its lanes, and a pump for each stream.

Bytes to the peer: a pump says that its socket is readable → the session decides whose turn it is, and how
much → the pump reads that → the session frames it → a lane sends it. From the peer: a lane → the session puts
them in order → the pump writes them; only then the session returns credit.

A session is started by one of the two hosts, its *initiator*, who also replaces lanes that were lost.
When no lane comes back within the resume window, the session ends and every hypervisor socket is reset:
QEMU then reports a failed migration, and the guest runs on at the source.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from tunnel.errors import (
    LaneLost,
    LaneStalled,
    ProtocolError,
    RefusedError,
    TunnelError,
    UnreachableError,
    WireError,
)
from tunnel.lanes.lane import Lane
from tunnel.net.sockets import host_of, is_deserted
from tunnel.relay import incidents, notices, resume_checks
from tunnel.relay.duplicate_hosts import DuplicateHosts, DuplicateOutcome
from tunnel.relay.link_plan import LinkPlan, LinkState
from tunnel.relay.link_sender import LinkSender
from tunnel.relay.loops import post
from tunnel.relay.rotation import Rotation
from tunnel.relay.stream_table import Answered, StreamTable
from tunnel.relay.target_check import TargetCheck, answer
from tunnel.wire import negotiation
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Frame, Hello, Notice, Ping, Replace, Resume, Resumed, RotationFrame, Welcome
from tunnel.wire.payload import Payload
from tunnel.wire.session import Session, Settings

__all__ = ["Link", "LinkPlan", "LinkState"]

RESUME_GRACE = 5.0
"""Seconds that the acceptor waits longer than the initiator tries."""

log = structlog.get_logger()


class Link:
    """See the module. Implements LaneHandler, StreamsOwner, RotationOwner and SendingOwner."""

    parallel = False  # whether streams may go to several sessions: a link has one

    def __init__(self, plan: LinkPlan, instance: bytes) -> None:
        self.plan = plan
        self.peer = plan.peer
        self.instance = instance
        self.session: Session | None = None
        self.lanes: dict[int, Lane] = {}
        self.incidents = incidents.Incidents()
        self.offer: Hello | None = None  # sent, not answered
        self.changed = asyncio.Event()  # set whenever ``state`` may have changed
        self.resumes = 0
        self.stalled: LaneStalled | None = None  # why a lane was lost; the dialer takes it back
        self.since = incidents.now()  # when ``state`` became what it is, in seconds since 1970
        self.log = log.bind(peer=plan.peer, **({"session": plan.number} if plan.number else {}))
        self.features = Feature.NONE  # what both sides agreed on
        self.sessions = 1  # that both sides have room for
        self.peer_instance = b""
        self._memory = plan.settings.memory  # bytes, for each direction
        self.streams = StreamTable(plan.egress, self, self.log, plan.host, plan.peer, plan.pump)
        self.rotation = Rotation(self, plan.rotation, self.log)
        self._sending = LinkSender(self, plan.host)
        self.kick = self._sending.kick  # see there; called so often that it is not called through
        self._loop = asyncio.get_running_loop()
        self._last_state = LinkState.DOWN
        self.places: set[str] = set()  # the hosts' addresses to which lanes of this session have led
        self._namesakes = DuplicateHosts(plan.peer, self.lanes, self.note)
        self._wanted = 1  # lanes, as both sides allow
        self._asked = 0  # the newest lane that was asked for, whether or not it came to be
        self._replacing = 0  # the lost lane, or 0, whose place that one is to take
        self._lost: deque[int] = deque()  # lanes that are to be replaced
        self._give_up: asyncio.TimerHandle | None = None

    @property
    def _settings(self) -> Settings:
        """What the next session is to have."""
        return replace(self.plan.settings, memory=self._memory)

    def post(self, act: Callable[..., object], *args: object) -> None:
        """Call ``act``, which changes something of this link, in the link's own loop."""
        post(self._loop, act, *args)

    def share(self, memory: int) -> None:
        """Use ``memory`` bytes from now on, for each direction: what other sessions with the peer leave."""
        self._memory = memory
        if self.session is not None:
            self.session.share(memory)
            self.kick()

    @property
    def state(self) -> LinkState:
        """Up while there is a lane."""
        if self.session is None:
            return LinkState.DOWN
        return LinkState.UP if self.lanes else LinkState.RESUMING

    # Streams that enter here.

    async def open(
        self,
        sock: socket.socket,
        target: str,
        deadline: float,
        uid: int | None = None,
        answered: Answered | None = None,
    ) -> None:
        """Carry ``sock``, of local user ``uid``, to ``target`` at the peer; it is the link's from now on.

        ``answered`` is called once the peer has opened or refused the stream, or it has ended before.

        Raises, and leaves ``sock`` to the caller: UnreachableError when there is no link at ``deadline``
        (loop time), RefusedError when no more streams are taken, as all are in use until then.
        """
        waited = False
        while True:
            waited |= self.session is None
            await self._wait_up(deadline)
            if waited and is_deserted(sock):  # a hypervisor takes its first caller for the migration
                raise RefusedError("the caller hung up while it waited")
            try:
                return self.streams.open(sock, target, uid, answered)
            except RefusedError as error:
                if error.code is not Code.STREAM_LIMIT or not await self.streams.vacancy(deadline):
                    raise
            waited = True

    async def probe(self, target: str, deadline: float) -> TargetCheck:
        """Ask the peer whether it would admit a stream to ``target``, which is not opened.

        Raises UnreachableError when there is no answer at ``deadline`` (loop time), RefusedError when the
        peer has too many questions to answer already.
        """
        await self._wait_up(deadline)
        asked = self.streams.probing.ask(target)
        if asked is None:
            return answer(target, None)
        self.kick()
        try:
            async with asyncio.timeout_at(deadline):
                return answer(target, await asked)
        except TimeoutError:
            raise UnreachableError(f"{self.peer} was asked about {target} and did not answer") from None

    def record(self, text: str) -> None:
        """Put ``text``, about something that concerns both hosts, into the log of each."""
        self.log.info("for the record", reason=text)
        notices.tell(self.lanes.values(), self.features, Code.NONE, text)

    async def _wait_up(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self.session is None:
                    await self.wait_change()
        except TimeoutError:
            cause = self.incidents.cause()
            last = f" (last: {cause})" if cause else ""
            raise UnreachableError(f"no link with {self.peer}{last}") from None

    async def wait_change(self) -> None:
        """Return when the state may have changed."""
        self.changed.clear()
        await self.changed.wait()

    # Sessions and lanes: called by whoever set a lane up.

    def greet(self, lane: Lane, session: bytes) -> None:
        """Offer a session to the peer that we dialled."""
        limits = self._settings.limits
        if self.plan.number:
            limits = replace(limits, streams=0)  # only who began a further session opens streams in it
        self.offer = negotiation.hello(session, self.instance, limits, self.plan.sessions, self.plan.number)
        lane.send_control(encode(self.offer))
        lane.flush()

    def welcomed(self, lane: Lane, answer: Welcome) -> None:
        """Take the peer's answer to our offer. Raises ProtocolError."""
        offer, self.offer = self.offer, None
        if offer is None:  # the peer dialled us meanwhile: end the session that it began with this answer
            lane.send_control(encode(Ping(0)))  # without a frame before it, GOAWAY would end the lane alone
            lane.close(Code.COLLISION, "another connection is in use")
            return
        negotiation.check_welcome(offer, answer)
        settings, features = replace(self._settings, limits=offer.limits), answer.features
        session = Session(offer.session, settings, answer.limits, initiator=True, features=features)
        self._establish(session, lane, answer)

    def welcome(self, lane: Lane, offer: Hello) -> None:
        """Answer a peer that dialled us. Raises ProtocolError."""
        if objection := self._objection(offer):
            lane.close(Code.COLLISION, objection)
            return
        answer = negotiation.welcome(offer, self.instance, self.plan.settings.limits, self.plan.sessions)
        take = partial(self._take, lane, offer, answer, self.session)
        self._namesakes.judge(lane, offer.instance, self.features, take)

    def _take(self, lane: Lane, offer: Hello, answer: Welcome, old: Session | None) -> None:
        """Begin the session that a peer offers, in place of ``old``, which it has left."""
        if self.session not in (None, old):  # it began while it was being found out whether that was so
            lane.close(Code.COLLISION, "another connection with this host is in use")
            return
        self.end(Code.COLLISION, f"{self.peer} started anew")
        self.offer = None
        lane.send_control(encode(answer))
        settings, features = self._settings, answer.features
        session = Session(offer.session, settings, offer.limits, initiator=False, features=features)
        self._establish(session, lane, replace(offer, features=answer.features))

    def _objection(self, offer: Hello) -> str:
        """Why an offer is not taken, "" if it may be: SPEC.md section 8, Collision."""
        if self.session is None:
            # Both hosts dial at once: the connection of the one whose name is smaller counts.
            preferred = self.offer is not None and self.plan.host < self.peer
        elif offer.instance != self.peer_instance:
            return self._namesakes.objection(offer.instance, ", ".join(sorted(self.places)))
        else:
            preferred = bool(self.lanes)
        return f"another connection with {self.plan.host} is in use" if preferred else ""

    def _establish(self, session: Session, lane: Lane, peer: Hello | Welcome) -> None:
        """``peer`` says what the other side granted, and the features that both have."""
        self.session = session
        self.streams.begin(session)
        self.peer_instance = peer.instance
        self.sessions = min(self.plan.sessions, peer.sessions)
        self._namesakes.forget()
        self.places.clear()
        self.features = peer.features
        lanes = min(self.plan.settings.limits.lanes, peer.limits.lanes)
        self._wanted = lanes if Feature.RESUME in peer.features else 1  # RESUME brings all but the first
        self._asked = 1
        self._lost.clear()
        self.attach(lane, 1)
        session.attach(1)
        self._carry(lane)
        self.log.info(
            "session up" if self.plan.number else "link up",
            lane=lane.kind.value,
            cipher=lane.cipher,
            local=lane.local,
            remote=lane.remote,
        )

    def attach(self, lane: Lane, epoch: int) -> None:
        """Own a lane that has a number in the session."""
        lane.hand_over(self)
        lane.attached(epoch, self.streams)
        self.rotation.watch(lane)

    def _carry(self, lane: Lane) -> None:
        """Let a lane carry the session from now on."""
        self.lanes[lane.epoch] = lane
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        self.places.add(host_of(lane.remote))
        self._state_changed()
        self.kick()

    def elsewhere(self, frame: Hello | Resume) -> None:
        """Nobody takes a lane to another loop: a link has one."""

    # Lanes behind the first: in place of a lost one, in place of one that lives, or one more.

    @property
    def wants_lane(self) -> bool:
        """Whether it is on us to bring another lane."""
        if self.session is None or not self.session.initiator or self.rotation.resuming:
            return False
        return len(self.lanes) < self._wanted

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer has reason to bring a lane: there is no session, or it may have more."""
        return self.session is None or len(self.lanes) < self._wanted

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` is one of this link's, or may become the first of its next session."""
        return lane in self._every_lane() or self._namesakes.owns(lane)

    def ask_resume(self, lane: Lane, living: int = 0) -> Session:
        """Tell the peer, on a new lane, how far we are; the session that the answer will concern.

        The lane is to take the place of lane ``living``; 0: of one that is lost, if there is one.
        """
        session = self._living()
        self._asked += 1  # never twice the same: the peer may have attached a lane of which we never heard
        self._replacing = living or (self._lost[0] if self._lost else 0)
        claim = self.rotation.claim if living else session.resume
        lane.send_control(encode(claim(self._asked, self._replacing)))
        lane.flush()
        return session

    def resumed(self, lane: Lane, answer: Resumed) -> None:
        """The peer told us how far it is. Raises ProtocolError."""
        resume_checks.check_answer(self.session, answer, self._asked, self._replacing)
        if self.rotation.granted(lane, answer):
            return
        self._resumed_by(lane, answer)
        if answer.replaces in self._lost:
            self._lost.remove(answer.replaces)

    def readmit(self, lane: Lane, claim: Resume) -> None:
        """The peer replaces a lane, or brings one more. Raises ProtocolError."""
        none = f"{self.plan.host} has no such session with {self.peer}"
        session = resume_checks.check(self.session, claim, self.features, self._asked, none)
        self._asked = claim.epoch
        if isinstance(claim, Replace) and self.rotation.lives(claim.replaces):
            self.rotation.stand_by(lane, claim)
            return
        if claim.replaces:
            self.give_up_lane(session, claim.replaces)
        if len(self.lanes) >= self._wanted:
            raise ProtocolError(Code.HANDSHAKE, f"RESUME for lane {len(self.lanes) + 1} of {self._wanted}")
        lane.send_control(encode(session.resumed(claim.epoch, claim.replaces)))
        self._resumed_by(lane, claim)

    def give_up_lane(self, session: Session, epoch: int) -> None:
        """Also a lane that took the same one's place before, of which the peer then never heard."""
        if epoch in self._lost:
            self._lost.remove(epoch)
        given_up = [old for old in self.lanes.values() if epoch in (old.epoch, old.replaces)]
        for old in [*given_up, *self.rotation.forget(epoch)]:
            self.lanes.pop(old.epoch, None)
            old.abort()
            session.lost(old.epoch)

    def rejoin(self, lane: Lane, peer: Resume) -> None:
        """Let an attached lane carry the session, and take the peer's positions in. Raises ProtocolError."""
        session = self._living()
        try:
            released = session.rejoin(peer)
        except ProtocolError as error:
            self._loop.call_soon(self.end, error.code, str(error), session)
            raise
        lane.replaces = peer.replaces
        self._carry(lane)
        self._namesakes.settle(DuplicateOutcome.IS_REFUSED)
        self.streams.act(released)
        self.kick()

    def _resumed_by(self, lane: Lane, peer: Resume) -> None:
        """A lane is there in place of a lost one, or one more."""
        self.attach(lane, peer.epoch)
        self.rejoin(lane, peer)
        if peer.replaces:
            self.resumes += 1
            self.note("link resumed", f"lane {peer.epoch} replaces lane {peer.replaces}")
        else:
            self.log.info("lane added", lanes=len(self.lanes), local=lane.local, remote=lane.remote)

    # LaneHandler.

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Take a frame of the session in."""
        if isinstance(frame, RotationFrame):
            self.rotation.on_frame(lane, frame)
            return
        if isinstance(frame, Notice):
            notices.heard(frame, self.peer, self.features, self.log, self.note)
            return
        session = self._living()
        self.streams.act(session.receive(frame, sequence))
        if session.busy:
            self.kick()

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: Payload) -> None:
        """Take payload in, and write what is in order to its socket."""
        self.streams.deliver(stream, offset, payload)

    def on_batch_end(self, lane: Lane) -> None:
        """Write everything that came at once with as few calls as there are streams."""
        self.streams.flush()

    def on_writable(self, lane: Lane) -> None:
        """Go on sending."""
        if self.lanes.get(lane.epoch) is lane:
            self._sending.fill(lane)

    def on_tick(self, lane: Lane) -> None:
        """Do what is not urgent."""
        session = self._living()
        session.round_trip = lane.distance
        session.flush_credits()
        self.streams.reap_silent(time.monotonic())
        self.rotation.tick(lane)
        self.kick()

    def on_worn(self, lane: Lane) -> None:
        """Have the lane replaced, for its keys' sake."""
        self.rotation.on_worn(lane)

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """A lane is gone: wait for another, or end the session."""
        if self.rotation.ended(lane, reason) or self.lanes.get(lane.epoch) is not lane:
            return
        del self.lanes[lane.epoch]
        session = self._living()
        session.lost(lane.epoch)
        if session.initiator:
            self._lost.append(lane.epoch)
        if isinstance(reason, LaneStalled) and (self.stalled is None or reason.proven):
            self.stalled = reason
        expected = self.rotation.expects_loss_of(lane)
        if isinstance(reason, LaneLost) and (expected or self.lanes or self._may_resume()):
            if not expected:
                self.note("lane lost", str(reason))
            self.rotation.lost(lane)
            self.wait_for_lane(session)
        else:
            self.end_for(reason, session)

    def end_for(self, reason: TunnelError, session: Session) -> None:
        """End the session, for what ended a lane."""
        told = reason.code if isinstance(reason, WireError | RefusedError) else None
        self.end(Code.LINK_LOST if told is None else told, str(reason), session)

    def _may_resume(self) -> bool:
        return self.plan.resume_window > 0 and Feature.RESUME in self.features

    def wait_for_lane(self, session: Session) -> None:
        """A lane less carries the session; perhaps it was the last."""
        self._state_changed()
        if self.lanes:
            self.kick()  # they carry what the lost one may have taken with it
            return
        window = self.plan.resume_window + (0 if session.initiator else RESUME_GRACE)
        if self.rotation.resuming:  # the peer ends a lane for the answer that is under way
            window = max(window, RESUME_GRACE)
        reason = f"no lane came back within {self.plan.resume_window:g} seconds"
        self._give_up = self._loop.call_later(window, self.end, Code.LINK_LOST, reason, session)
        self._namesakes.settle(DuplicateOutcome.TAKES_OVER)

    # The end.

    def end(self, code: Code, reason: str, session: Session | None = None) -> None:
        """End the session, if there is one: every stream is reset, on both sides.

        ``session`` names the one that is meant: what is learned late of one leaves later ones alone.
        """
        if self.session is None or session not in (None, self.session):
            return
        self.session = None
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        for lane in self._every_lane():
            lane.close(code, reason)
        self.lanes.clear()
        self.rotation.clear()
        self.streams.end()
        self._state_changed()
        self._loop.call_soon(self._namesakes.settle, DuplicateOutcome.TAKES_OVER)
        if self.plan.number and code is Code.NONE:
            self.log.info("session ended", reason=reason)
        else:
            self.note("link down", reason, code=code.name)

    async def close(self, code: Code, reason: str) -> None:
        """``end``, and return when the peer has heard of it, or had its time to."""
        lanes = [*self._every_lane(), *self.rotation.closing, *self._namesakes.dismiss(code, reason)]
        self.end(code, reason)
        await asyncio.gather(*(lane.gone.wait() for lane in lanes))

    def note(self, what: str, reason: str, **details: object) -> None:
        """Log something that an operator should know, and remember it for ``status``."""
        self.log.warning(what, reason=reason, **details)
        self.incidents.add(what, reason, str(details.get("code", "")))

    def _state_changed(self) -> None:
        """``state`` may have: note since when it is what it is, and wake who waits for that."""
        if self.state is not self._last_state:
            self._last_state, self.since = self.state, incidents.now()
        self.changed.set()

    def _every_lane(self) -> list[Lane]:
        return [*self.lanes.values(), *self.rotation.others]

    def _living(self) -> Session:
        assert self.session is not None  # noqa: S101  without a session there are neither lanes nor pumps
        return self.session

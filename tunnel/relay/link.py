"""A link: the mtunnel protocol with one peer. A session, its lanes, and a pump for each stream.

Bytes to the peer: a pump reports that its socket is readable → the session schedules a stream, and how many
bytes → its pump reads them → the session frames them → a lane sends them. Bytes from the peer: a lane → the
session reassembles them → a pump writes them; only then does the session return credit.

A session is begun by one of the two hosts, its *initiator*, which also replaces lost lanes. When no lane is
resumed within the resume window, the session ends and every hypervisor socket is reset: QEMU then reports a
failed migration, and the guest continues on the source.
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
from tunnel.relay.loops import post
from tunnel.relay.rotation import Rotation
from tunnel.relay.stream_io import LinkSender
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
"""Seconds that the acceptor waits longer than the initiator keeps trying."""

log = structlog.get_logger()


class Link:
    """One session with a peer. Implements LaneHandler, StreamTableHandler, RotationOwner, LinkSenderOwner."""

    parallel = False  # whether streams may use several sessions: a link has one

    def __init__(self, plan: LinkPlan, instance: bytes) -> None:
        self.plan = plan
        self.peer = plan.peer
        self.instance = instance
        self.session: Session | None = None
        self.lanes: dict[int, Lane] = {}
        self.incidents = incidents.Incidents()
        self.offer: Hello | None = None  # sent and not answered
        self.changed = asyncio.Event()  # set whenever ``state`` may have changed
        self.resumes = 0
        self.stalled: LaneStalled | None = None  # why a lane was lost; cleared by the dialer
        self.since = incidents.now()  # of ``state``, in seconds since 1970
        self.log = log.bind(peer=plan.peer, **({"session": plan.number} if plan.number else {}))
        self.features = Feature.NONE  # negotiated
        self.sessions = 1  # that both sides allow
        self.peer_instance = b""
        self._memory = plan.settings.memory  # bytes in each direction
        self.streams = StreamTable(plan.egress, self, self.log, plan.host, plan.peer, plan.pump)
        self.rotation = Rotation(self, plan.rotation, self.log)
        self._sending = LinkSender(self, plan.host)
        self.kick = self._sending.kick  # bound here, as it is called so often
        self._loop = asyncio.get_running_loop()
        self._last_state = LinkState.DOWN
        self.places: set[str] = set()  # remote addresses of this session's lanes, past ones too
        self._namesakes = DuplicateHosts(plan.peer, self.lanes, self.note)
        self._wanted = 1  # lanes that both sides allow
        self._asked = 0  # the last lane requested, whether or not it came up
        self._replacing = 0  # the lost lane that it replaces, or 0
        self._lost: deque[int] = deque()  # lanes to be replaced
        self._give_up: asyncio.TimerHandle | None = None

    @property
    def _settings(self) -> Settings:
        """Settings of the next session."""
        return replace(self.plan.settings, memory=self._memory)

    def post(self, act: Callable[..., object], *args: object) -> None:
        """Call ``act``, which changes this link, in the link's own loop."""
        post(self._loop, act, *args)

    def share(self, memory: int) -> None:
        """Limit memory to ``memory`` bytes in each direction, from now on: other sessions use the rest."""
        self._memory = memory
        if self.session is not None:
            self.session.share(memory)
            self.kick()

    @property
    def state(self) -> LinkState:
        """The state of the link: up while there is a lane."""
        if self.session is None:
            return LinkState.DOWN
        return LinkState.UP if self.lanes else LinkState.RESUMING

    # Streams opened by this host.

    async def open(
        self,
        sock: socket.socket,
        target: str,
        deadline: float,
        uid: int | None = None,
        answered: Answered | None = None,
    ) -> None:
        """Relay ``sock``, of local user ``uid``, to ``target`` at the peer. The link then owns ``sock``.

        ``answered`` is called once the peer has opened or refused the stream, or it has ended before.

        Raises, with ``sock`` left to the caller: UnreachableError if the link is not up at ``deadline`` (loop
        time), RefusedError if no more streams are accepted, or all slots are still in use at ``deadline``.
        """
        waited = False
        while True:
            waited |= self.session is None
            await self._wait_up(deadline)
            if waited and is_deserted(sock):  # a hypervisor treats its first connection as the migration
                raise RefusedError("the client disconnected while waiting")
            try:
                return self.streams.open(sock, target, uid, answered)
            except RefusedError as error:
                if error.code is not Code.STREAM_LIMIT or not await self.streams.vacancy(deadline):
                    raise
            waited = True

    async def probe(self, target: str, deadline: float) -> TargetCheck:
        """Ask the peer whether it would accept a stream to ``target``, without opening one.

        Raises UnreachableError if there is no answer at ``deadline`` (loop time), RefusedError if too many
        probes are pending at the peer.
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
            raise UnreachableError(f"timed out waiting for {self.peer} to check target {target}") from None

    def record(self, text: str) -> None:
        """Log ``text`` on both hosts."""
        self.log.info("for the record", reason=text)
        notices.tell(self.lanes.values(), self.features, Code.NONE, text)

    async def _wait_up(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self.session is None:
                    await self.wait_change()
        except TimeoutError:
            cause = self.incidents.cause()
            last = f" (last error: {cause})" if cause else ""
            raise UnreachableError(f"no link with {self.peer}{last}") from None

    async def wait_change(self) -> None:
        """Wait until ``state`` may have changed."""
        self.changed.clear()
        await self.changed.wait()

    # Sessions and lanes: called by the handlers of new lanes.

    def greet(self, lane: Lane, session: bytes) -> None:
        """Send HELLO to the peer that we dialled."""
        limits = self._settings.limits
        if self.plan.number:
            limits = replace(limits, streams=0)  # only the initiator opens streams in an additional session
        self.offer = negotiation.hello(session, self.instance, limits, self.plan.sessions, self.plan.number)
        lane.send_control(encode(self.offer))
        lane.flush()

    def welcomed(self, lane: Lane, answer: Welcome) -> None:
        """Handle WELCOME, the answer to our HELLO. Raises ProtocolError."""
        offer, self.offer = self.offer, None
        if offer is None:  # the peer has dialled us: end the session that this answer begins
            lane.send_control(encode(Ping(0)))  # GOAWAY as our first frame would end only the lane
            lane.close(Code.COLLISION, "another connection is in use")
            return
        negotiation.check_welcome(offer, answer)
        settings, features = replace(self._settings, limits=offer.limits), answer.features
        session = Session(offer.session, settings, answer.limits, initiator=True, features=features)
        self._establish(session, lane, answer)

    def welcome(self, lane: Lane, offer: Hello) -> None:
        """Answer HELLO of a peer that dialled us. Raises ProtocolError."""
        if objection := self._objection(offer):
            lane.close(Code.COLLISION, objection)
            return
        answer = negotiation.welcome(offer, self.instance, self.plan.settings.limits, self.plan.sessions)
        take = partial(self._take, lane, offer, answer, self.session)
        self._namesakes.judge(lane, offer.instance, self.features, take)

    def _take(self, lane: Lane, offer: Hello, answer: Welcome, old: Session | None) -> None:
        """Begin the session that the peer offers, in place of ``old``, which it abandoned."""
        if self.session not in (None, old):  # it began during the check for duplicate hosts
            lane.close(Code.COLLISION, "another connection with this host is in use")
            return
        self.end(Code.COLLISION, f"{self.peer} began a new session")
        self.offer = None
        lane.send_control(encode(answer))
        settings, features = self._settings, answer.features
        session = Session(offer.session, settings, offer.limits, initiator=False, features=features)
        self._establish(session, lane, replace(offer, features=answer.features))

    def _objection(self, offer: Hello) -> str:
        """Return why an offer is refused, "" if it may be accepted: SPEC.md section 8, Collision."""
        if self.session is None:
            # Both hosts dial at the same time: the one with the smaller name keeps its connection.
            preferred = self.offer is not None and self.plan.host < self.peer
        elif offer.instance != self.peer_instance:
            return self._namesakes.objection(offer.instance, ", ".join(sorted(self.places)))
        else:
            preferred = bool(self.lanes)
        return f"another connection with {self.plan.host} is in use" if preferred else ""

    def _establish(self, session: Session, lane: Lane, peer: Hello | Welcome) -> None:
        """Begin ``session`` on ``lane``. ``peer`` has the other side's limits and the common features."""
        self.session = session
        self.streams.begin(session)
        self.peer_instance = peer.instance
        self.sessions = min(self.plan.sessions, peer.sessions)
        self._namesakes.forget()
        self.places.clear()
        self.features = peer.features
        lanes = min(self.plan.settings.limits.lanes, peer.limits.lanes)
        self._wanted = lanes if Feature.RESUME in peer.features else 1  # RESUME adds all but the first
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
        """Become the handler of a lane, which is number ``epoch`` of the session."""
        lane.hand_over(self)
        lane.attached(epoch, self.streams)
        self.rotation.watch(lane)

    def _carry(self, lane: Lane) -> None:
        """Use a lane for the session from now on."""
        self.lanes[lane.epoch] = lane
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        self.places.add(host_of(lane.remote))
        self._state_changed()
        self.kick()

    def elsewhere(self, frame: Hello | Resume) -> None:
        """Return None: a link has one loop, to which all its lanes belong."""

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

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` is one of this link, or may become the first of its next session."""
        return lane in self._every_lane() or self._namesakes.owns(lane)

    def ask_resume(self, lane: Lane, living: int = 0) -> Session:
        """Send RESUME or REPLACE with our positions on a new lane. Return the session.

        The lane is to replace lane ``living``, which is up; 0: a lost lane, if there is one.
        """
        session = self._living()
        self._asked += 1  # never reused: the peer may have attached a lane whose RESUMED was lost
        self._replacing = living or (self._lost[0] if self._lost else 0)
        claim = self.rotation.claim if living else session.resume
        lane.send_control(encode(claim(self._asked, self._replacing)))
        lane.flush()
        return session

    def resumed(self, lane: Lane, answer: Resumed) -> None:
        """Handle RESUMED with the peer's positions. Raises ProtocolError."""
        resume_checks.check_answer(self.session, answer, self._asked, self._replacing)
        if self.rotation.granted(lane, answer):
            return
        self._resumed_by(lane, answer)
        if answer.replaces in self._lost:
            self._lost.remove(answer.replaces)

    def readmit(self, lane: Lane, claim: Resume) -> None:
        """Answer RESUME or REPLACE: the peer replaces a lane, or adds one. Raises ProtocolError."""
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
        """Abort lane ``epoch``, and any lane that replaced it for which the peer never received RESUMED."""
        if epoch in self._lost:
            self._lost.remove(epoch)
        given_up = [old for old in self.lanes.values() if epoch in (old.epoch, old.replaces)]
        for old in [*given_up, *self.rotation.forget(epoch)]:
            self.lanes.pop(old.epoch, None)
            old.abort()
            session.lost(old.epoch)

    def rejoin(self, lane: Lane, peer: Resume) -> None:
        """Use an attached lane for the session, and apply the peer's positions. Raises ProtocolError."""
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
        """Attach a lane that replaces a lost one, or is additional."""
        self.attach(lane, peer.epoch)
        self.rejoin(lane, peer)
        if peer.replaces:
            self.resumes += 1
            self.note("link resumed", f"lane {peer.epoch} replaces lane {peer.replaces}")
        else:
            self.log.info("lane added", lanes=len(self.lanes), local=lane.local, remote=lane.remote)

    # LaneHandler.

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Handle a frame of the session."""
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
        """Handle payload, and write what is in order to its socket."""
        self.streams.deliver(stream, offset, payload)

    def on_batch_end(self, lane: Lane) -> None:
        """Write the payload of a batch, with one call for each stream."""
        self.streams.flush()

    def on_writable(self, lane: Lane) -> None:
        """Continue sending."""
        if self.lanes.get(lane.epoch) is lane:
            self._sending.fill(lane)

    def on_tick(self, lane: Lane) -> None:
        """Do periodic work that is not urgent."""
        session = self._living()
        session.round_trip = lane.distance
        session.flush_credits()
        self.streams.reap_silent(time.monotonic())
        self.rotation.tick(lane)
        self.kick()

    def on_worn(self, lane: Lane) -> None:
        """Have the lane replaced: key limit reached."""
        self.rotation.on_worn(lane)

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """Handle the loss of a lane: wait for another, or end the session."""
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
        """End the session for the reason that ended a lane."""
        told = reason.code if isinstance(reason, WireError | RefusedError) else None
        self.end(Code.LINK_LOST if told is None else told, str(reason), session)

    def _may_resume(self) -> bool:
        return self.plan.resume_window > 0 and Feature.RESUME in self.features

    def wait_for_lane(self, session: Session) -> None:
        """Handle one lane less, perhaps the last: start the resume window."""
        self._state_changed()
        if self.lanes:
            self.kick()  # they carry what may be lost with it
            return
        window = self.plan.resume_window + (0 if session.initiator else RESUME_GRACE)
        if self.rotation.resuming:  # the peer ends this lane, and its answer is in flight
            window = max(window, RESUME_GRACE)
        reason = f"no lane resumed within {self.plan.resume_window:g} s"
        self._give_up = self._loop.call_later(window, self.end, Code.LINK_LOST, reason, session)
        self._namesakes.settle(DuplicateOutcome.TAKES_OVER)

    # The end.

    def end(self, code: Code, reason: str, session: Session | None = None) -> None:
        """End the session, if there is one: every stream is reset, on both sides.

        If ``session`` is given, only that one is ended, so that a late event does not affect a later session.
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
        """End the session, and wait until the lanes are closed, which takes a bounded time."""
        lanes = [*self._every_lane(), *self.rotation.closing, *self._namesakes.dismiss(code, reason)]
        self.end(code, reason)
        await asyncio.gather(*(lane.gone.wait() for lane in lanes))

    def note(self, what: str, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""
        self.log.warning(what, reason=reason, **details)
        self.incidents.add(what, reason, str(details.get("code", "")))

    def _state_changed(self) -> None:
        """Update ``since`` if ``state`` has changed, and wake its waiters."""
        if self.state is not self._last_state:
            self._last_state, self.since = self.state, incidents.now()
        self.changed.set()

    def _every_lane(self) -> list[Lane]:
        return [*self.lanes.values(), *self.rotation.others]

    def _living(self) -> Session:
        assert self.session is not None  # noqa: S101  without a session there are neither lanes nor pumps
        return self.session

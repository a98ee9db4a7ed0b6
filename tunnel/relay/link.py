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
from collections.abc import Callable, Iterable

import structlog

from tunnel.errors import LaneStalled, RefusedError, TunnelError, UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.net.sockets import host_of, is_deserted
from tunnel.relay import incidents
from tunnel.relay.duplicate_check import DuplicateCheck
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link_plan import LinkPlan, LinkState
from tunnel.relay.loops import post
from tunnel.relay.status_schema import ReplacedStatus
from tunnel.relay.stream_io import LinkSender
from tunnel.relay.stream_table import Answered, StreamTable
from tunnel.relay.target_check import TargetCheck, answer
from tunnel.wire.codes import Code
from tunnel.wire.duplicate_hosts import DuplicateOutcome
from tunnel.wire.events import Event
from tunnel.wire.frames import Frame, Hello, Notice, Resume, RotationFrame
from tunnel.wire.membership import Membership
from tunnel.wire.session import Session

__all__ = ["Link", "LinkPlan", "LinkState"]

log = structlog.get_logger()


class Link:
    """One session with a peer. Implements LaneHandler, StreamTableHandler and MembershipOwner."""

    parallel = False  # whether streams may use several sessions: a link has one

    def __init__(self, plan: LinkPlan, instance: bytes) -> None:
        self.plan = plan
        self.peer = plan.peer
        self.members: Membership[Lane] = Membership(self, plan, instance, time.monotonic)
        self.lanes = self.members.lanes  # by epoch: those that carry the session
        self.rotation = self.members.rotation
        self.incidents = incidents.Incidents()
        self.resumes = 0
        self.rotations = 0
        self.last_rotation: ReplacedStatus | None = None
        self.attempt: asyncio.Task[None] | None = None  # to replace a lane that is up
        self.stalled: LaneStalled | None = None  # why a lane was lost; cleared by the dialer
        self.since = incidents.now()  # of ``state``, in seconds since 1970
        self.log = log.bind(peer=plan.peer, **({"session": plan.number} if plan.number else {}))
        self.streams = StreamTable(plan.egress, self, self.log, plan.host, plan.peer, plan.pump)
        self._sending = LinkSender(self, plan.host)
        self.kick = self._sending.kick  # bound here, as it is called so often
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._last_state = LinkState.DOWN
        self._check: DuplicateCheck | None = None
        self._closing: list[Lane] = []  # replaced ones
        self._give_up: asyncio.TimerHandle | None = None

    def post(self, act: Callable[..., object], *args: object) -> None:
        """Call ``act``, which changes this link, in the link's own loop."""
        post(self._loop, act, *args)

    @property
    def session(self) -> Session | None:
        """The session, if there is one."""
        return self.members.session

    @property
    def state(self) -> LinkState:
        """The state of the link: up while there is a lane."""
        if self.members.session is None:
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
            waited |= self.members.session is None
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
        self.members.send_notice(Code.NONE, text)

    async def _wait_up(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self.members.session is None:
                    await self.wait_change()
        except TimeoutError:
            cause = self.incidents.cause()
            last = f" (last error: {cause})" if cause else ""
            raise UnreachableError(f"no link with {self.peer}{last}") from None

    async def wait_change(self) -> None:
        """Wait until ``state`` may have changed."""
        self._changed.clear()
        await self._changed.wait()

    # Lanes that the peer has dialled.

    def on_hello(self, lane: Lane, offer: Hello) -> None:
        """Answer HELLO. Raises ProtocolError."""
        self.members.on_hello(lane, offer)

    def on_resume(self, lane: Lane, claim: Resume) -> None:
        """Answer RESUME or REPLACE: the peer replaces a lane, or adds one. Raises ProtocolError."""
        self.members.on_resume(lane, claim)

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer is expected to dial a lane: there is no session, or it may have more lanes."""
        return self.members.lacks_lane

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` is one of this link, or may become the first of its next session."""
        return self.members.holds(lane)

    def elsewhere(self, frame: Hello | Resume) -> None:
        """Return None: a link has one loop, to which all its lanes belong."""

    # LaneHandler.

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Process a frame of the session."""
        if isinstance(frame, RotationFrame):
            self.rotation.on_frame(lane, frame)
            return
        if isinstance(frame, Notice):
            self.members.on_notice(frame)
            return
        session = self.members.live_session
        self.streams.act(session.receive(frame, sequence))
        if session.busy:
            self.kick()

    def on_writable(self, lane: Lane) -> None:
        """Continue sending."""
        if self.lanes.get(lane.epoch) is lane:
            self._sending.fill(lane)

    def on_tick(self, lane: Lane) -> None:
        """Do periodic work that is not urgent."""
        session = self.members.live_session
        session.round_trip = lane.distance
        session.flush_credits()
        self.streams.reap_silent(time.monotonic())
        self.rotation.tick(lane)
        if session.busy:
            self.kick()

    def on_worn(self, lane: Lane) -> None:
        """Have the lane replaced: key limit reached."""
        self.rotation.on_worn(lane)

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """Process the end of a lane: wait for another, or end the session."""
        carried = self.lanes.get(lane.epoch) is lane
        if carried and isinstance(reason, LaneStalled) and (self.stalled is None or reason.proven):
            self.stalled = reason
        self.members.on_lane_end(lane, reason)

    # MembershipOwner.

    def place(self, lane: Lane) -> str:
        """Return the peer's address of ``lane`` without the port."""
        return host_of(lane.remote)

    def begin_check(self, lane: Lane) -> None:
        """Own ``lane``, and find out whether the daemon that has the session is up."""
        self._check = DuplicateCheck(
            lane, list(self.lanes.values()), self.plan.timeouts.duplicate, self.members.duplicates.settle
        )

    def end_check(self) -> None:
        """The check has ended."""
        if self._check is not None:
            self._check.close()
            self._check = None

    def begin(self, session: Session, lane: Lane) -> None:
        """Open the streams of ``session`` from now on."""
        self.streams.begin(session)
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
        lane.warn_at(self.plan.rotation.records)

    def carry(self, lane: Lane) -> None:
        """Send on ``lane``, too: the link is up."""
        self._stop_timer()
        self.changed()
        self.kick()

    def rejoined(self, events: Iterable[Event]) -> None:
        """Act on the events of a lane that joined."""
        self.streams.act(events)
        self.kick()

    def resumed(self, lane: Lane) -> None:
        """Report a lane that replaces a lost one, or is additional."""
        if lane.replaces:
            self.resumes += 1
            self.note(IncidentKind.LINK_RESUMED, f"lane {lane.epoch} replaces lane {lane.replaces}")
        else:
            self.log.info("lane added", lanes=len(self.lanes), local=lane.local, remote=lane.remote)

    def start_resume_window(self, window: float) -> None:
        """End the session in ``window`` seconds, unless a lane is resumed before."""
        reason = f"no lane resumed within {self.plan.resume_window:g} s"
        self._give_up = self._loop.call_later(window, self.end, Code.LINK_LOST, reason, self.session)

    def closing(self, lane: Lane) -> None:
        """Wait for ``lane``, which was replaced, before the link is closed."""
        self._closing = [*self.closing_lanes, lane]

    @property
    def closing_lanes(self) -> list[Lane]:
        """Replaced lanes whose sockets are not closed yet."""
        return [lane for lane in self._closing if not lane.gone.is_set()]

    def replaced(self, old: int, new: int, reason: str) -> None:
        """Report that lane ``new`` has replaced lane ``old``, which was up."""
        self.rotations += 1
        self.last_rotation = {"at": incidents.moment(incidents.now()), "lane": old, "reason": reason}
        self.log.info("lane replaced", lane=old, by=new, reason=reason)

    def interrupt(self) -> None:
        """Cancel the attempt to replace a lane, if there is one."""
        if self.attempt is not None:
            self.attempt.cancel()

    def changed(self) -> None:
        """Wake those that wait for a change; update ``since`` if ``state`` has changed."""
        if self.state is not self._last_state:
            self._last_state, self.since = self.state, incidents.now()
        self._changed.set()

    def lane_lost(self, reason: str) -> None:
        """Report the loss of a lane that carried the session."""
        self.note(IncidentKind.LANE_LOST, reason)

    def not_replaced(self, reason: str, due: str) -> None:
        """Report that a lane that is to be replaced, because of ``due``, stays in use."""
        self.note(IncidentKind.LANE_NOT_REPLACED, reason, due=due)

    def duplicate_refused(self, reason: str) -> None:
        """Report another daemon with the peer's name."""
        self.note(IncidentKind.DUPLICATE_HOST, reason)

    def told(self, reason: str, *, problem: bool) -> None:
        """Report a NOTICE of the peer."""
        if problem:
            self.note(IncidentKind.TOLD_BY_PEER, reason)
        else:
            self.log.info(IncidentKind.TOLD_BY_PEER.value, reason=reason)

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""
        self.log.warning(kind.value, reason=reason, **details)
        self.incidents.add(kind, reason, details)

    def info(self, what: str, **details: object) -> None:
        """Log an event that is no incident."""
        self.log.info(what, **details)

    # The end.

    def end(self, code: Code, reason: str, session: Session | None = None) -> None:
        """End the session, if there is one: every stream is reset, on both sides. See ``Membership.end``."""
        self.members.end(code, reason, session)

    def end_soon(self, code: Code, reason: str, session: Session) -> None:
        """Call ``end`` in the next loop iteration."""
        self._loop.call_soon(self.end, code, reason, session)

    def ended(self, code: Code, reason: str) -> None:
        """Reset every stream: the session has ended."""
        self._stop_timer()
        self.streams.end()
        self.changed()
        self._loop.call_soon(self.members.duplicates.settle, DuplicateOutcome.TAKES_OVER)
        if self.plan.number and code is Code.NONE:
            self.log.info("session ended", reason=reason)
        else:
            self.note(IncidentKind.LINK_DOWN, reason, code=code.name)

    def _stop_timer(self) -> None:
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None

    async def close(self, code: Code, reason: str) -> None:
        """End the session, and wait until the lanes are closed, which takes a bounded time."""
        lanes = [*self.members.all, *self.closing_lanes, *self.members.duplicates.dismiss(code, reason)]
        self.end(code, reason)
        await asyncio.gather(*(lane.gone.wait() for lane in lanes))

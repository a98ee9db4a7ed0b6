"""A link: all that this host has with one peer. A session, its lanes, and a pump for each stream.

Bytes to the peer: a pump says that its socket is readable → the session decides whose turn it is, and how
much → the pump reads just that → the session frames it → a lane sends it. Bytes from the peer: a lane →
the session puts them in order → the pump writes them; only then the session returns credit.

A session is started by one of the two hosts, its *initiator*, who also replaces lanes that were lost.
When no lane comes back within the resume window, the session ends and every hypervisor socket is reset:
QEMU then reports a failed migration, and the guest runs on at the source.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import structlog

from tunnel.errors import LaneLost, ProtocolError, RefusedError, TunnelError, UnreachableError, WireError
from tunnel.relay.address import AllowList
from tunnel.relay.egress import Egress
from tunnel.relay.pump import Pump
from tunnel.transport.lane import Lane, own, view
from tunnel.wire import events, negotiation
from tunnel.wire.codes import MIB, Code, Feature
from tunnel.wire.frames import Frame, Hello, Resume, Resumed, Welcome, encode
from tunnel.wire.session import Session, Settings
from tunnel.wire.stream import Outgoing

TURN = 1 * MIB
"""Bytes that one lane may be handed before the loop serves others."""

RESUME_GRACE = 5.0
"""Seconds that the acceptor waits longer than the initiator tries."""

HALF_CLOSED_TICKS = 120
"""Ticks (5 s each) without a byte after which a half-closed stream is given up."""

MOST_INCIDENTS = 32

log = structlog.get_logger()


class LinkState(StrEnum):
    """Whether streams can be opened."""

    DOWN = "down"
    UP = "up"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """What the configuration says about one peer. ``resume_window`` is in seconds, 0 for off."""

    host: str
    peer: str
    egress: AllowList
    settings: Settings = field(default_factory=Settings)
    resume_window: float = 30.0


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that an operator should see in ``status``."""

    at: str  # UTC, ISO 8601
    what: str
    reason: str


class Link:
    """See the module. Implements LaneHandler, PumpOwner and Requester."""

    def __init__(self, plan: LinkPlan, instance: bytes) -> None:
        self.plan = plan
        self.peer = plan.peer
        self.instance = instance
        self.session: Session | None = None
        self.lanes: dict[int, Lane] = {}
        self.pumps: dict[int, Pump] = {}
        self.incidents: deque[Incident] = deque(maxlen=MOST_INCIDENTS)
        self.offer: Hello | None = None  # sent, not answered
        self.changed = asyncio.Event()  # set whenever ``state`` may have changed
        self.draining = False
        self.resumes = 0
        self.streams_opened = 0
        self.log = log.bind(peer=plan.peer)
        self._loop = asyncio.get_running_loop()
        self._egress = Egress(plan.egress, self)
        self._peer_instance = b""
        self._features = Feature.NONE
        self._asked = 0  # the newest lane that was asked for, whether or not it came to be
        self._lost = 0  # the lane that is to be replaced
        self._give_up: asyncio.TimerHandle | None = None
        self._kicked = False
        self._fresh: dict[Pump, None] = {}  # pumps that got payload since the last batch ended
        self._quiet: dict[int, tuple[int, int]] = {}  # half-closed streams: ticks, bytes at the last one

    @property
    def state(self) -> LinkState:
        """Up while there is a lane."""
        if self.session is None:
            return LinkState.DOWN
        return LinkState.UP if self.lanes else LinkState.RESUMING

    # Streams that enter here.

    async def open(self, sock: socket.socket, target: str, deadline: float) -> None:
        """Carry ``sock`` to ``target`` at the peer; it is the link's from now on.

        Raises, and leaves ``sock`` to the caller: UnreachableError when there is no link at ``deadline``
        (loop time), RefusedError when no more streams are taken.
        """
        session = await self._wait_up(deadline)
        if self.draining:
            raise RefusedError("this host is stopping", Code.DRAINING)
        number = session.open(target)
        self._add_pump(sock, number, target)
        self.kick()

    async def _wait_up(self, deadline: float) -> Session:
        try:
            async with asyncio.timeout_at(deadline):
                while self.session is None:
                    await self.wait_change()
        except TimeoutError:
            last = f" (last: {self.incidents[-1].reason})" if self.incidents else ""
            raise UnreachableError(f"no link with {self.peer}{last}") from None
        return self.session

    async def wait_change(self) -> None:
        """Return when the state may have changed."""
        self.changed.clear()
        await self.changed.wait()

    def _add_pump(self, sock: socket.socket, number: int, target: str) -> Pump:
        pump = self.pumps[number] = Pump(sock, number, target, self)
        self.streams_opened += 1
        return pump

    # Streams that leave here.

    def on_dialled(self, number: int, sock: socket.socket) -> None:
        """Requester: the target accepted."""
        session = self._living()
        session.accept(number)
        pump = self._add_pump(sock, number, session.target(number))
        self.log.info("stream opened", stream=number, target=pump.target)
        pump.start_reading()
        self.kick()

    def on_not_dialled(self, number: int, error: RefusedError) -> None:
        """Requester: the target did not accept, or must not be dialled."""
        session = self._living()
        self.note("stream refused", error.reason, stream=number)
        session.refuse(number, error.code or Code.INTERNAL, error.reason)
        self.kick()

    # Sessions and lanes: called by whoever set a lane up.

    def greet(self, lane: Lane, session: bytes) -> None:
        """Offer a session to the peer that we dialled."""
        self.offer = negotiation.hello(session, self.instance, self.plan.settings.limits)
        lane.send_control(encode(self.offer))
        lane.flush()

    def welcomed(self, lane: Lane, answer: Welcome) -> None:
        """Take the peer's answer to our offer. Raises ProtocolError."""
        offer, self.offer = self.offer, None
        if offer is None:  # given up, or the peer dialled us meanwhile
            lane.close(Code.COLLISION, "another connection is in use")
            return
        negotiation.check_welcome(offer, answer)
        session = Session(offer.session, self.plan.settings, answer.limits, initiator=True)
        self._establish(session, lane, answer.instance, answer.features)

    def welcome(self, lane: Lane, offer: Hello) -> None:
        """Answer a peer that dialled us. Raises ProtocolError."""
        if self._prefers_other(offer):
            lane.close(Code.COLLISION, "another connection with this host is in use")
            return
        answer = negotiation.welcome(offer, self.instance, self.plan.settings.limits)
        if self.session is not None:
            self.end(Code.COLLISION, "the peer started anew")
        self.offer = None
        lane.send_control(encode(answer))
        session = Session(offer.session, self.plan.settings, offer.limits, initiator=False)
        self._establish(session, lane, offer.instance, answer.features)

    def _prefers_other(self, offer: Hello) -> bool:
        """Both hosts may dial at once; then the connection of the one whose name is smaller counts."""
        if self.session is not None:
            return bool(self.lanes) and offer.instance == self._peer_instance
        return self.offer is not None and self.plan.host < self.peer

    def _establish(self, session: Session, lane: Lane, instance: bytes, features: Feature) -> None:
        self.session = session
        self._peer_instance = instance
        self._features = features
        self._asked = 1
        self._add_lane(lane, 1)
        session.attach(1)
        self.log.info(
            "link up", lane=lane.kind.value, cipher=lane.cipher, local=lane.local, remote=lane.remote
        )

    def _add_lane(self, lane: Lane, epoch: int) -> None:
        self.lanes[epoch] = lane
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        lane.hand_over(self)
        lane.attached(epoch)
        self.changed.set()
        self.kick()

    # A lane in place of a lost one.

    @property
    def wants_lane(self) -> bool:
        """Whether it is on us to replace the lane."""
        return self.session is not None and not self.lanes and self.session.initiator

    def ask_resume(self, lane: Lane) -> None:
        """Tell the peer, on a new lane, how far we are."""
        session = self._living()
        self._asked += 1  # never twice the same: the peer may have attached a lane of which we never heard
        lane.send_control(encode(session.resume(self._asked, self._lost)))
        lane.flush()

    def resumed(self, lane: Lane, answer: Resumed) -> None:
        """The peer told us how far it is. Raises ProtocolError."""
        session = self.session
        if session is None or answer.session != session.id or answer.epoch != self._asked:
            raise ProtocolError(Code.SESSION_UNKNOWN, "RESUMED for another session")
        self._rejoin(session, lane, answer)

    def readmit(self, lane: Lane, claim: Resume) -> None:
        """The peer replaces a lane. Raises ProtocolError."""
        session = self.session
        if session is None or claim.session != session.id or session.initiator:
            raise ProtocolError(Code.SESSION_UNKNOWN, "there is no such session with this peer")
        if claim.epoch <= self._asked or not claim.replaces:
            detail = f"lane {claim.epoch} in place of {claim.replaces}, the newest is {self._asked}"
            raise ProtocolError(Code.HANDSHAKE, f"RESUME with impossible lane numbers: {detail}")
        self._asked = claim.epoch
        # Also a lane that took the same one's place before, of which the peer then never heard.
        for old in [o for o in self.lanes.values() if claim.replaces in (o.epoch, o.replaces)]:
            del self.lanes[old.epoch]
            old.abort()
            session.lost(old.epoch)
        lane.send_control(encode(session.resumed(claim.epoch, claim.replaces)))
        self._rejoin(session, lane, claim)

    def _rejoin(self, session: Session, lane: Lane, peer: Resume) -> None:
        try:
            session.rejoin(peer)
        except ProtocolError as error:
            self._loop.call_soon(self.end, error.code, str(error))
            raise
        self.resumes += 1
        lane.replaces = peer.replaces
        self._add_lane(lane, peer.epoch)
        self.note("link resumed", f"lane {peer.epoch} replaces lane {peer.replaces}")

    # LaneHandler.

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Take a frame of the session in."""
        session = self._living()
        self._act(session.receive(frame, sequence))
        if session.busy:
            self.kick()

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: memoryview) -> None:
        """Take payload in, and write what is in order to its socket."""
        for piece in self._living().data(stream, offset, payload, own):
            pump = self.pumps[stream]
            pump.deliver(view(piece))
            self._fresh[pump] = None

    def on_batch_end(self, lane: Lane) -> None:
        """Write everything that came at once with as few calls as there are streams."""
        fresh, self._fresh = self._fresh, {}
        for pump in fresh:
            pump.flush()

    def on_writable(self, lane: Lane) -> None:
        """Go on sending."""
        self._fill(lane)

    def on_tick(self, lane: Lane) -> None:
        """Do what is not urgent."""
        session = self._living()
        session.round_trip = lane.round_trip
        session.flush_credits()
        self._reap_half_closed()
        self.kick()

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """A lane is gone: wait for another, or end the session."""
        if self.lanes.get(lane.epoch) is not lane:
            return
        del self.lanes[lane.epoch]
        session = self._living()
        session.lost(lane.epoch)
        self._lost = lane.epoch
        if isinstance(reason, LaneLost) and self._may_resume():
            self.note("lane lost", str(reason))
            self._wait_for_lane(session)
        else:
            told = reason.code if isinstance(reason, WireError | RefusedError) else None
            self.end(Code.LINK_LOST if told is None else told, str(reason))

    def _may_resume(self) -> bool:
        return self.plan.resume_window > 0 and Feature.RESUME in self._features

    def _wait_for_lane(self, session: Session) -> None:
        self.changed.set()
        if self.lanes:
            return
        window = self.plan.resume_window + (0 if session.initiator else RESUME_GRACE)
        reason = f"no lane came back within {self.plan.resume_window:g} seconds"
        self._give_up = self._loop.call_later(window, self.end, Code.LINK_LOST, reason)

    # What a session reports.

    def _act(self, reported: list[events.Event]) -> None:
        for event in reported:
            match event:
                case events.StreamRequested():
                    self._request(event)
                case events.StreamOpened():
                    self.log.info(
                        "stream opened", stream=event.stream, target=self.pumps[event.stream].target
                    )
                    self.pumps[event.stream].start_reading()
                case events.StreamEnded():
                    self.pumps[event.stream].shutdown_write()
                case events.StreamConfirmed():
                    self._confirmed(self.pumps[event.stream])
                case events.StreamClosed():
                    self._remove(event.stream).close()
                case events.StreamRefused() | events.StreamReset():
                    self._reset_local(event)

    def _request(self, event: events.StreamRequested) -> None:
        if self.draining:
            self.on_not_dialled(event.stream, RefusedError("this host is stopping", Code.DRAINING))
        else:
            self._egress.request(event.stream, event.target)

    def _reset_local(self, event: events.StreamRefused | events.StreamReset) -> None:
        if event.stream not in self.pumps:
            self._egress.cancel(event.stream)  # reset while it was being dialled
            return
        what = "stream refused" if isinstance(event, events.StreamRefused) else "stream reset"
        self.note(f"{what} by the peer", event.reason, stream=event.stream, code=event.code.name)
        self._remove(event.stream).reset()

    def _remove(self, number: int) -> Pump:
        pump = self.pumps.pop(number)
        self._quiet.pop(number, None)
        self.log.info("stream closed", stream=number, read=pump.bytes_read, written=pump.bytes_written)
        return pump

    # PumpOwner.

    def on_readable(self, pump: Pump) -> None:
        """A hypervisor has something to say."""
        self._living().ready(pump.number)
        self.kick()

    def on_delivered(self, pump: Pump, count: int) -> None:
        """A hypervisor took bytes: the peer may send more."""
        session = self._living()
        self._act(session.delivered(pump.number, count, self._loop.time()))
        if session.has_control:
            self.kick()

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        """A hypervisor takes nothing more. What it had said before it left still gets through."""
        if pump.read_ended and not self._living().unconfirmed(pump.number):
            self._local_failure(pump, error)

    def _confirmed(self, pump: Pump) -> None:
        if pump.broken:
            self._local_failure(pump, OSError("the local socket was closed with bytes under way to it"))

    def _local_failure(self, pump: Pump, error: OSError) -> None:
        reason = f"{pump.caller or pump.target}: {error.strerror or error}"
        self._abandon(pump.number, Code.LOCAL_RESET, reason)

    def _abandon(self, number: int, code: Code, reason: str) -> None:
        self._living().reset(number, code, reason)
        self.note("stream reset", reason, stream=number, code=code.name)
        self._remove(number).reset()
        self.kick()

    def _reap_half_closed(self) -> None:
        for number, pump in list(self.pumps.items()):
            if not pump.half_closed:
                continue
            ticks, before = self._quiet.get(number, (0, -1))
            moved = pump.bytes_read + pump.bytes_written
            ticks = ticks + 1 if moved == before else 0
            self._quiet[number] = (ticks, moved)
            if ticks >= HALF_CLOSED_TICKS:
                self._abandon(number, Code.IDLE_HALF_CLOSED, "one direction ended, the other stayed silent")

    # Sending.

    def kick(self) -> None:
        """Send what there is, once this turn of the loop is over."""
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._kicked = False
        for lane in list(self.lanes.values()):
            self._fill(lane)

    def _fill(self, lane: Lane) -> None:
        """Hand ``lane`` control frames, then what must be sent again, then what hypervisors have to say."""
        session = self.session
        left = TURN
        while session is not None and lane.room:
            if left <= 0:
                self.kick()
                return
            outgoing = session.replay(lane.epoch) or self._next_payload(session, lane)
            if control := session.control():
                lane.send_control(control)
            if outgoing is None:
                lane.flush()
                return
            lane.send(outgoing)
            left -= len(outgoing.piece)

    def _next_payload(self, session: Session, lane: Lane) -> Outgoing | None:
        while (picked := session.pick()) is not None:
            number, allowance = picked
            pump = self.pumps[number]
            try:
                data = pump.read(min(allowance, lane.batch))
            except OSError as error:
                self._local_failure(pump, error)
                continue
            if data:
                return session.send(number, data, lane.epoch)
            session.not_ready(number)
            if data is not None:
                session.finish(number)
        return None

    # The end.

    def end(self, code: Code, reason: str) -> None:
        """End the session, if there is one: every stream is reset, on both sides."""
        if self.session is None:
            return
        self.session = None
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        for lane in self.lanes.values():
            lane.close(code, reason)
        self.lanes.clear()
        self._egress.close()
        for number in list(self.pumps):
            self._remove(number).reset()
        self.note("link down", reason, code=code.name)
        self.changed.set()

    async def close(self, code: Code, reason: str) -> None:
        """``end``, and return when the peer has heard of it, or had its time to."""
        lanes = list(self.lanes.values())
        self.end(code, reason)
        await asyncio.gather(*(lane.gone.wait() for lane in lanes))

    def note(self, what: str, reason: str, **details: object) -> None:
        """Log something that an operator should know, and remember it for ``status``."""
        self.log.warning(what, reason=reason, **details)
        self.incidents.append(Incident(datetime.now(UTC).isoformat(timespec="milliseconds"), what, reason))

    def _living(self) -> Session:
        assert self.session is not None  # noqa: S101  without a session there are neither lanes nor pumps
        return self.session

"""Accept incoming lanes on the peer port: TCP accept, TLS handshake, then the link of a configured peer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Protocol

import structlog

from tunnel.errors import IdentityError, TunnelError
from tunnel.lanes.lane import Lane
from tunnel.lanes.lane_factory import LaneMaker, userspace
from tunnel.net.listener import Listener, bind_tcp
from tunnel.net.sockets import name_of, reset, tune_lane
from tunnel.relay.admission import Admission, AdmissionSlot, SourceClass
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link import Link
from tunnel.relay.sources import PeerSources, source_of
from tunnel.relay.timeouts import Timeouts
from tunnel.tls.contexts import TlsContexts
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, Hello, Resume
from tunnel.wire.states import LaneState

MOST_LOOSE = 8
"""Most lanes of one peer that no link owns: new, refused, or closing after GOAWAY."""

log = structlog.get_logger()


class LaneReceiver(Protocol):
    """The link of one peer, or the group of all its links."""

    @property
    def lanes(self) -> Mapping[int, Lane]:
        """The lanes of the primary session."""

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer is expected to dial a lane."""

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` belongs to a link, or may soon."""

    def on_hello(self, lane: Lane, offer: Hello) -> None:
        """Answer HELLO. Raises ProtocolError."""

    def on_resume(self, lane: Lane, claim: Resume) -> None:
        """Answer RESUME: the peer replaces a lane, or adds one. Raises ProtocolError."""

    def elsewhere(self, frame: Hello | Resume) -> Callable[[Lane], None] | None:
        """Return what moves a lane with this first frame to another loop, or None. Raises ProtocolError."""

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""


class LaneAcceptor:
    """Accepts lanes. A connection without a peer's certificate never reaches a link.

    ``addresses`` are the configured host names or IP addresses of peers.
    """

    def __init__(
        self,
        host: str,
        port: int,
        contexts: Callable[[], TlsContexts],
        congestion: str | None,
        links: Mapping[str, LaneReceiver],
        make_lane: LaneMaker = userspace,
        addresses: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.rejected = 0
        self.timeouts = timeouts or Timeouts()
        self._contexts = contexts
        self._congestion = congestion
        self._links = links
        self._make_lane = make_lane
        self._admission = Admission(len(links), time.monotonic())
        self._sources = PeerSources(addresses or {})
        self._lanes: dict[str, list[Lane]] = {
            name: [] for name in links
        }  # accepted and still open, oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._unproven: dict[AdmissionSlot, asyncio.Task[None]] = {}
        self._keep(self._sources.keep(), "addresses of peers")
        self._listener = Listener(bind_tcp(host, port, absent=True), self._accepted)

    async def close(self) -> None:
        """Accept no more lanes, and drop those that no link owns yet."""
        self._listener.close()
        await asyncio.sleep(0)  # start every task: from then on each closes its connection when cancelled
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accepted(self, sock: socket.socket) -> None:
        try:
            address = sock.getpeername()
        except OSError:  # already disconnected
            sock.close()
            return
        remote, source, now = name_of(address), source_of(address[0]), time.monotonic()
        place, gone = self._admission.admit(source, self._standing(source, now), now)
        for other in gone:
            self._reject(other.source, "not authenticated in time, and other connections are waiting")
            # After its first step: a task cancelled before that never closes the connection.
            asyncio.get_running_loop().call_soon(self._unproven.pop(other).cancel)
        if place is None:
            self._listener.refused()
            self._reject(remote, "too many connections from this address")
            reset(sock)
        else:
            self._unproven[place] = self._keep(self._receive(sock, remote, place), "incoming lane")

    def _standing(self, source: str, now: float) -> SourceClass:
        peers = self._sources.peers_at(source)
        welcome = [peer for peer in peers if self._admission.may_expect(peer, now)]
        if not welcome:
            return SourceClass.STRANGER
        if not any(self._links[peer].lacks_lane for peer in welcome):
            return SourceClass.KNOWN
        others = any(link.lanes for peer, link in self._links.items() if peer not in peers)
        return SourceClass.BESIDE if others else SourceClass.EXPECTED

    def _reject(self, remote: str, reason: str) -> None:
        self.rejected += 1
        log.warning("connection rejected", remote=remote, reason=reason)

    async def _receive(self, sock: socket.socket, remote: str, place: AdmissionSlot) -> None:
        """Handle a connection from its accept to the end of its lane."""
        try:
            lane = await self._shake_hands(sock)
        except (TunnelError, OSError) as error:
            self._reject(remote, str(error))
            self._tell_claimed(error)
            sock.close()
            return
        except Exception as error:  # nothing that a client sends may cost more than its connection
            log.exception("handshake failed", remote=remote)
            self._reject(remote, f"internal error: {error!r}")
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        finally:
            self._admission.leave(place)
            self._unproven.pop(place, None)
        self._admission.proved(place, lane.peer, time.monotonic())
        self._sources.proved(lane.peer, place.source)
        await self._introduce(lane)

    def _tell_claimed(self, error: Exception) -> None:
        """Report a valid certificate that names several peers to each of them: their links stay down."""
        if isinstance(error, IdentityError):
            for peer in error.claimed:
                self._links[peer].note(IncidentKind.LANE_REJECTED, str(error))

    async def _shake_hands(self, sock: socket.socket) -> Lane:
        tune_lane(sock, self._congestion)
        contexts, state = self._contexts(), LaneState.AWAIT_FIRST
        return await self._make_lane(sock, contexts, self._links, state, dialing=False)

    async def _introduce(self, lane: Lane) -> None:
        """Wait for the lane's first frame, and until it is gone; meanwhile it counts for its peer."""
        link, lanes = self._links[lane.peer], self._lanes[lane.peer]
        lanes.append(lane)
        try:
            incoming = IncomingLane(link, self.timeouts)
            lane.start(incoming)
            bound_loose(link, lanes)
            await incoming.outcome(lane)
            if incoming.taker is not None and not lane.ended:
                incoming.taker(lane)
                return
            await lane.gone.wait()
        finally:
            lanes.remove(lane)


def bound_loose(link: LaneReceiver, lanes: Sequence[Lane]) -> None:
    """Abort the oldest lanes of a peer that no link owns, beyond ``MOST_LOOSE``."""
    loose = [lane for lane in lanes if not link.holds(lane)]
    for lane in loose[:-MOST_LOOSE]:
        reason = f"{lane.remote} did not close in time, more than {MOST_LOOSE} are pending"
        link.note(IncidentKind.LANE_REJECTED, reason)
        lane.abort()


async def receive(lane: Lane, frame: Hello | Resume, link: Link, lanes: list[Lane]) -> None:
    """Pass a lane to ``link`` in the running loop. It is in ``lanes`` until it is gone."""
    lanes.append(lane)
    try:
        incoming = IncomingLane(link, link.plan.timeouts)
        lane.enter(incoming, frame)
        bound_loose(link, lanes)
        await incoming.outcome(lane)
        await lane.gone.wait()
    finally:
        lanes.remove(lane)


class IncomingLane:
    """Handler of an accepted lane until its first frame; then ``taker``, if set, moves it to another loop."""

    def __init__(self, link: LaneReceiver, timeouts: Timeouts) -> None:
        self._within = timeouts.first_frame
        self.taker: Callable[[Lane], None] | None = None
        self._link = link
        self._done = asyncio.Event()

    async def outcome(self, lane: Lane) -> None:
        """Return when a link owns the lane, or it is gone."""
        try:
            async with asyncio.timeout(self._within):
                await self._done.wait()
        except TimeoutError:
            if self._done.is_set():  # at the last moment: a link owns the lane
                return
            lane.close(Code.HANDSHAKE, "no first frame received")
            self._link.note(IncidentKind.LANE_REJECTED, f"{lane.remote} sent no first frame")
        except asyncio.CancelledError:
            if not self._done.is_set():
                lane.abort()
            raise

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Handle the first frame; the lane's state allows no other."""
        if isinstance(frame, Hello | Resume):
            self.taker = self._link.elsewhere(frame)
        if self.taker is not None:
            pass  # called later, outside of the lane's callback
        elif isinstance(frame, Hello):
            self._link.on_hello(lane, frame)
        elif isinstance(frame, Resume):
            self._link.on_resume(lane, frame)
        self._done.set()

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the first frame."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """Report a lane that ended before a link owned it."""
        if not self._done.is_set():
            self._link.note(IncidentKind.LANE_REJECTED, str(reason))
            self._done.set()

"""The host's one port: incoming lanes, from an unknown connection to a link of a configured peer."""

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
from tunnel.relay.link import Link
from tunnel.relay.sources import PeerSources, source_of
from tunnel.tls.contexts import TlsContexts
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, Hello, Resume
from tunnel.wire.payload import Payload
from tunnel.wire.states import LaneState

FIRST_FRAME_TIMEOUT = 10.0

MOST_LOOSE = 8
"""Lanes of one peer that belong to its link not yet, or no more: new, refused, or saying GOAWAY."""

log = structlog.get_logger()


class LaneReceiver(Protocol):
    """What there is of one peer: its link, or that and all further sessions."""

    @property
    def lanes(self) -> Mapping[int, Lane]:
        """Those that carry the standing session."""

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer has reason to bring a lane."""

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` belongs to a link, or may yet."""

    def welcome(self, lane: Lane, offer: Hello) -> None:
        """Answer a peer that dialled us. Raises ProtocolError."""

    def readmit(self, lane: Lane, claim: Resume) -> None:
        """The peer replaces a lane, or brings one more. Raises ProtocolError."""

    def elsewhere(self, frame: Hello | Resume) -> Callable[[Lane], None] | None:
        """Who takes a lane with this first frame to another loop; None: nobody. Raises ProtocolError."""

    def note(self, what: str, reason: str, **details: object) -> None:
        """Something happened that an operator should know."""


class LaneAcceptor:
    """Accepts lanes. A connection that does not prove to be a peer's never reaches a link.

    ``addresses`` are the host names or IP addresses at which peers are configured.
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
    ) -> None:
        self.rejected = 0
        self._contexts = contexts
        self._congestion = congestion
        self._links = links
        self._make_lane = make_lane
        self._admission = Admission(len(links), time.monotonic())
        self._sources = PeerSources(addresses or {})
        self._lanes: dict[str, list[Lane]] = {
            name: [] for name in links
        }  # accepted and not gone, oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._unproven: dict[AdmissionSlot, asyncio.Task[None]] = {}
        self._keep(self._sources.keep(), "addresses of peers")
        self._listener = Listener(bind_tcp(host, port, absent=True), self._accepted)

    async def close(self) -> None:
        """Accept no more, and drop who is not through yet."""
        self._listener.close()
        await asyncio.sleep(0)  # each task has begun then, and closes its connection when it is cancelled
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
        except OSError:  # it has hung up already
            sock.close()
            return
        remote, source, now = name_of(address), source_of(address[0]), time.monotonic()
        place, gone = self._admission.admit(source, self._standing(source, now), now)
        for other in gone:
            self._reject(other.source, "it proved nothing in time, and others wait")
            # After its first step: a task that is cancelled before it never closes the connection.
            asyncio.get_running_loop().call_soon(self._unproven.pop(other).cancel)
        if place is None:
            self._listener.refused()
            self._reject(remote, "too many connections from there")
            reset(sock)
        else:
            self._unproven[place] = self._keep(self._receive(sock, remote, place), "reception")

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
        """Take a connection from its accept to the end of its lane."""
        try:
            lane = await self._shake_hands(sock)
        except (TunnelError, OSError) as error:
            self._reject(remote, str(error))
            self._tell_claimed(error)
            sock.close()
            return
        except Exception as error:  # whatever anybody sends costs no more than the connection
            log.exception("handshake failed", remote=remote)
            self._reject(remote, f"a fault of this daemon: {error!r}")
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
        """Peers of which a genuine certificate proves several: each may wait for its link in vain."""
        if isinstance(error, IdentityError):
            for peer in error.claimed:
                self._links[peer].note("lane rejected", str(error))

    async def _shake_hands(self, sock: socket.socket) -> Lane:
        tune_lane(sock, self._congestion)
        contexts, state = self._contexts(), LaneState.AWAIT_FIRST
        return await self._make_lane(sock, contexts, self._links, state, dialing=False)

    async def _introduce(self, lane: Lane) -> None:
        """Wait for the lane's first frame, and then, in its peer's count, until it is gone."""
        link, lanes = self._links[lane.peer], self._lanes[lane.peer]
        lanes.append(lane)
        try:
            newcomer = IncomingLane(link)
            lane.start(newcomer)
            bound_loose(link, lanes)
            await newcomer.outcome(lane)
            if newcomer.taker is not None and not lane.ended:
                newcomer.taker(lane)
                return
            await lane.gone.wait()
        finally:
            lanes.remove(lane)


def bound_loose(link: LaneReceiver, lanes: Sequence[Lane]) -> None:
    """A peer that lets lanes pile up beside its link loses the oldest of them."""
    loose = [lane for lane in lanes if not link.holds(lane)]
    for lane in loose[:-MOST_LOOSE]:
        link.note("lane rejected", f"{lane.remote} had not ended, and more than {MOST_LOOSE} others came")
        lane.abort()


async def receive(lane: Lane, frame: Hello | Resume, link: Link, lanes: list[Lane]) -> None:
    """Take a lane to ``link``, in the loop that runs; until it is gone it is in ``lanes``."""
    lanes.append(lane)
    try:
        newcomer = IncomingLane(link)
        lane.enter(newcomer, frame)
        bound_loose(link, lanes)
        await newcomer.outcome(lane)
        await lane.gone.wait()
    finally:
        lanes.remove(lane)


class IncomingLane:
    """Owns an accepted lane until its first frame; ``taker`` then says who takes it to another loop."""

    def __init__(self, link: LaneReceiver) -> None:
        self.taker: Callable[[Lane], None] | None = None
        self._link = link
        self._done = asyncio.Event()

    async def outcome(self, lane: Lane) -> None:
        """Return when the lane is a link's, or gone."""
        try:
            async with asyncio.timeout(FIRST_FRAME_TIMEOUT):
                await self._done.wait()
        except TimeoutError:
            if self._done.is_set():  # at the last moment: the lane is not ours any more
                return
            lane.close(Code.HANDSHAKE, "no first frame came")
            self._link.note("lane rejected", f"{lane.remote} sent no first frame")
        except asyncio.CancelledError:
            if not self._done.is_set():
                lane.abort()
            raise

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Take the first frame; the lane's state admits no other."""
        if isinstance(frame, Hello | Resume):
            self.taker = self._link.elsewhere(frame)
        if self.taker is not None:
            pass  # it is called when this turn of the lane is over
        elif isinstance(frame, Hello):
            self._link.welcome(lane, frame)
        elif isinstance(frame, Resume):
            self._link.readmit(lane, frame)
        self._done.set()

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: Payload) -> None:
        """Never called: the state admits no DATA."""

    def on_batch_end(self, lane: Lane) -> None:
        """Nothing was handed over."""

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the first frame."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The lane ended before it was anybody's."""
        if not self._done.is_set():
            self._link.note("lane rejected", str(reason))
            self._done.set()

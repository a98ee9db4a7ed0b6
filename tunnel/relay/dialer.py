"""Keeping a link up from our side: the first lane of a session, more of them, those in place of lost ones."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from tunnel.errors import LaneError, LaneStalled, RefusedError, TunnelError, UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.lanes.lane_factory import LaneMaker, userspace
from tunnel.net.connect import connect
from tunnel.net.sockets import host_of, socket_address, tune_lane
from tunnel.relay.backoff import Backoff
from tunnel.relay.link import Link
from tunnel.relay.mss_fallback import MssFallback
from tunnel.tls.contexts import TlsContexts
from tunnel.wire.codes import Code
from tunnel.wire.frames import ID_SIZE, Frame, Resumed, Welcome
from tunnel.wire.payload import Payload
from tunnel.wire.session import Session
from tunnel.wire.states import LaneState

ANSWER_TIMEOUT = 10.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DialPlan:
    """Where a peer listens, and how lanes to it are made."""

    host: str
    port: int
    contexts: Callable[[], TlsContexts]  # for the next lane: certificates are renewed. CertificateError
    congestion: str | None
    source: str | None = None  # the address of this host to dial from, where it can reach the peer's
    make_lane: LaneMaker = userspace
    doubt: Callable[[], str] = lambda: ""  # what of this host may be why a peer refuses its lanes


class Dialer:
    """Runs as long as the link is wanted."""

    def __init__(self, plan: DialPlan, link: Link) -> None:
        self._plan = plan
        self._link = link
        self._backoff = Backoff(lambda: random.uniform(0.5, 1.0))  # noqa: S311  spreads load
        self._address = ""  # of the peer, that the last attempt connected to
        self._failed: dict[str, float] = {}  # addresses that led to no lane, and when
        self._segments = MssFallback()
        self._segment: int | None = None  # of the last attempt
        self._said = ""

    async def run(self) -> None:
        """Connect whenever there is no session, resume whenever ours lacks a lane. Never returns."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._wanted():
                self._backoff.satisfied(loop.time())
                await self._link.wait_change()
            self._learn_from_loss(loop.time())
            resuming = self._link.wants_lane
            await asyncio.sleep(self._backoff.pause(loop.time(), resuming=resuming))
            if not self._wanted():
                continue
            if await self._tried():
                self._said = ""
                self._backoff.satisfied(loop.time())
            else:
                self._backoff.failed(resuming=resuming)

    def _learn_from_loss(self, now: float) -> None:
        """Make the next lane with smaller segments if one was lost because nothing got through."""
        stalled, self._link.stalled = self._link.stalled, None
        # Otherwise that lane was older than the last lesson.
        if stalled is not None and self._segments.size(now) == self._segment:
            self._shrink(stalled, now)

    def _shrink(self, stalled: LaneStalled, now: float) -> None:
        if self._segments.stalled(now, stalled) and (size := self._segments.size(now)):
            doubt = "get" if stalled.proven else "may get"
            reason = (
                f"full packets {doubt} lost on the way: the next connection uses segments of {size} bytes"
            )
            self._link.note("smaller segments", reason)

    def _wanted(self) -> bool:
        return self._link.wants_lane or self._link.session is None

    async def _tried(self) -> bool:
        """Whether an attempt succeeded; what was wrong is reported."""
        try:
            await self._attempt()
        except LaneError as error:
            doubt = self._plan.doubt()
            self._report(f"{error}; {doubt}" if doubt else str(error))
            self._failed[self._address] = asyncio.get_running_loop().time()
            if isinstance(error, LaneStalled):
                self._shrink(error, asyncio.get_running_loop().time())
        except (TunnelError, OSError) as error:
            self._report(str(error))
        except Exception as error:  # a bug must not end the daemon, and every migration with it
            log.exception("attempt to connect failed", peer=self._link.peer)
            self._report(f"a fault of this daemon: {error!r}")
        else:
            return True
        return False

    def _report(self, reason: str) -> None:
        """Say what is wrong once, not at every attempt."""
        if reason != self._said:
            self._said = reason
            self._link.note("cannot connect", reason)

    async def replace(self, old: int) -> None:
        """Bring a lane in the place of lane ``old``, which lives. Raises TunnelError or OSError."""
        self._segment = self._segments.size(asyncio.get_running_loop().time())
        lane = await self._lane(await self._connect(), LaneState.AWAIT_RESUMED)
        if old not in self._link.lanes:
            lane.abort()  # it was lost meanwhile, and is to be resumed
            return
        applicant = OutgoingLane(self._link)
        lane.start(applicant)
        self._link.ask_resume(lane, old)
        await applicant.outcome(lane)

    async def _lane(self, sock: socket.socket, state: LaneState) -> Lane:
        """Shake hands."""
        try:
            contexts, peers = self._plan.contexts(), (self._link.peer,)
            return await self._plan.make_lane(sock, contexts, peers, state, dialing=True)
        except BaseException:
            sock.close()
            raise

    async def _attempt(self) -> None:
        self._segment = self._segments.size(asyncio.get_running_loop().time())
        sock = await self._connect()
        with suppress(OSError):  # it may be gone already
            self._address = str(sock.getpeername()[0])
        await self._join(sock)
        self._failed.pop(self._address, None)

    async def _join(self, sock: socket.socket) -> None:
        """Let a connection become a lane of the link."""
        resuming = self._link.wants_lane
        lane = await self._lane(sock, LaneState.AWAIT_RESUMED if resuming else LaneState.AWAIT_WELCOME)
        if resuming and self._link.wants_lane:
            await self._resume(lane)
        elif not resuming and self._link.session is None:
            await self._begin(lane)
        else:
            lane.abort()  # the peer was faster, or the session has ended meanwhile

    async def _connect(self) -> socket.socket:
        plan = self._plan
        plan.contexts()  # without a certificate of use, the peer need not be bothered
        try:
            return await connect(plan.host, plan.port, self._prepare, self._failed)
        except UnreachableError as error:
            raise UnreachableError(f"{self._link.peer} at {plan.host} port {plan.port} {error}") from None

    def _prepare(self, sock: socket.socket, address: str) -> None:
        tune_lane(sock, self._plan.congestion, self._segment)
        if self._plan.source and _can_reach(self._plan.source, address):
            sock.bind(socket_address(self._plan.source, 0)[1])

    async def _begin(self, lane: Lane) -> None:
        applicant = OutgoingLane(self._link)
        lane.start(applicant)
        self._link.greet(lane, os.urandom(ID_SIZE))
        try:
            await applicant.outcome(lane)
        finally:
            self._link.offer = None

    async def _resume(self, lane: Lane) -> None:
        applicant = OutgoingLane(self._link)
        lane.start(applicant)
        session = self._link.ask_resume(lane)
        try:
            await applicant.outcome(lane)
        except RefusedError as error:
            if error.code is Code.SESSION_UNKNOWN:
                self._unknown_there(lane, f"cannot resume: {error}", session)
            raise

    def _unknown_there(self, lane: Lane, reason: str, session: Session) -> None:
        """The session is over if who says so has had it; another address may be that of another daemon."""
        if host_of(lane.remote) in self._link.places:
            self._link.end(Code.SESSION_UNKNOWN, reason, session)
        else:
            self._failed[self._address] = asyncio.get_running_loop().time()


def _can_reach(source: str, destination: str) -> bool:
    """Whether ``source`` names one address, and one from which ``destination`` may be reached at all."""
    ours, theirs = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if ours.is_unspecified or ours.version != theirs.version or ours.is_loopback != theirs.is_loopback:
        return False
    on_one_link = isinstance(ours, ipaddress.IPv6Address) and ours.is_link_local
    return theirs.is_link_local or not on_one_link


class OutgoingLane:
    """Owns a lane that we dialled until the peer has answered."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def outcome(self, lane: Lane) -> None:
        """Return when the lane is the link's. Raises what the peer or the connection had against it.

        An attempt is given up without GOAWAY: if the peer has answered, GOAWAY on a lane of the session would
        mean the end of that session.
        """
        try:
            await asyncio.wait([self._done], timeout=ANSWER_TIMEOUT)
        except asyncio.CancelledError:
            if self._done.cancel():  # else the lane is not ours any more
                lane.abort()
            raise
        if not self._done.done():  # an answer at the last moment has made the lane the link's
            lane.abort()
            raise LaneStalled(f"{lane.peer} accepted the connection and then stayed silent", ANSWER_TIMEOUT)
        self._done.result()

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Take the answer in; the lane's state admits no other frame."""
        if isinstance(frame, Welcome):
            self._link.welcomed(lane, frame)
        elif isinstance(frame, Resumed):
            self._link.resumed(lane, frame)
        if not self._done.done():
            self._done.set_result(None)

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: Payload) -> None:
        """Never called: the state admits no DATA."""

    def on_batch_end(self, lane: Lane) -> None:
        """Nothing was handed over."""

    def on_writable(self, lane: Lane) -> None:
        """Nothing more to send before the answer."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The lane did not make it."""
        if not self._done.done():
            self._done.set_exception(reason)

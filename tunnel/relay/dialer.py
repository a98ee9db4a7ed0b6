"""Keep a link up from this side: dial its first lane, additional lanes, and replacements of lost ones."""

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
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link import Link
from tunnel.relay.mss_fallback import MssFallback
from tunnel.tls.contexts import TlsContexts
from tunnel.wire.codes import Code
from tunnel.wire.frames import ID_SIZE, Frame, Resumed, Welcome
from tunnel.wire.session import Session
from tunnel.wire.states import LaneState

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DialPlan:
    """The address of a peer, and how to make lanes to it."""

    host: str
    port: int
    contexts: Callable[[], TlsContexts]  # current ones, for the next lane; raises CertificateError
    congestion: str | None
    source: str | None = None  # local address to dial from, if it can reach the peer's
    make_lane: LaneMaker = userspace
    doubt: Callable[[], str] = lambda: ""  # why a peer may refuse lanes of this host


class Dialer:
    """Keeps one link up, with backoff, for as long as ``run`` runs."""

    def __init__(self, plan: DialPlan, link: Link) -> None:
        self._plan = plan
        self._link = link
        self._backoff = Backoff(lambda: random.uniform(0.5, 1.0))  # noqa: S311  spreads load
        self._address = ""  # of the peer, used by the last attempt
        self._failed: dict[str, float] = {}  # addresses of failed attempts, and when they failed
        self._segments = MssFallback()
        self._segment: int | None = None  # of the last attempt
        self._said = ""

    async def run(self) -> None:
        """Connect when there is no session, resume when a session of ours lacks a lane. Never returns."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._wanted():
                self._backoff.satisfied(loop.time())
                await self._link.wait_change()
            self._learn_from_loss(loop.time())
            resuming = self._link.members.wants_lane
            await asyncio.sleep(self._backoff.pause(loop.time(), resuming=resuming))
            if not self._wanted():
                continue
            if await self._tried():
                self._said = ""
                self._backoff.satisfied(loop.time())
            else:
                self._backoff.failed(resuming=resuming)

    def _learn_from_loss(self, now: float) -> None:
        """Use smaller segments for the next lane if one was lost because it stalled."""
        stalled, self._link.stalled = self._link.stalled, None
        # Otherwise that lane was made before the last change of size.
        if stalled is not None and self._segments.size(now) == self._segment:
            self._shrink(stalled, now)

    def _shrink(self, stalled: LaneStalled, now: float) -> None:
        if self._segments.stalled(now, stalled) and (size := self._segments.size(now)):
            doubt = "are" if stalled.proven else "may be"
            reason = (
                f"full-size packets {doubt} lost on the path: the next connection uses {size}-byte segments"
            )
            self._link.note(IncidentKind.SMALLER_SEGMENTS, reason)

    def _wanted(self) -> bool:
        return self._link.members.wants_lane or self._link.session is None

    async def _tried(self) -> bool:
        """Make an attempt. Return whether it succeeded; report why it failed."""
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
            self._report(f"internal error: {error!r}")
        else:
            return True
        return False

    def _report(self, reason: str) -> None:
        """Report a failure once, not at every attempt."""
        if reason != self._said:
            self._said = reason
            self._link.note(IncidentKind.CANNOT_CONNECT, reason)

    async def replace(self, old: int) -> None:
        """Dial a lane that replaces lane ``old``, which is up. Raises TunnelError or OSError."""
        self._segment = self._segments.size(asyncio.get_running_loop().time())
        lane = await self._lane(await self._connect(), LaneState.AWAIT_RESUMED)
        if old not in self._link.lanes:
            lane.abort()  # lost in the meantime: resume it instead
            return
        outgoing = OutgoingLane(self._link)
        lane.start(outgoing)
        self._link.members.send_resume(lane, old)
        await outgoing.outcome(lane)

    async def _lane(self, sock: socket.socket, state: LaneState) -> Lane:
        """Make a lane by a TLS handshake on ``sock``."""
        try:
            contexts, peers = self._plan.contexts(), (self._link.peer,)
            return await self._plan.make_lane(sock, contexts, peers, state, dialing=True)
        except BaseException:
            sock.close()
            raise

    async def _attempt(self) -> None:
        self._segment = self._segments.size(asyncio.get_running_loop().time())
        sock = await self._connect()
        with suppress(OSError):  # already disconnected
            self._address = str(sock.getpeername()[0])
        await self._join(sock)
        self._failed.pop(self._address, None)

    async def _join(self, sock: socket.socket) -> None:
        """Make a connection a lane of the link."""
        resuming = self._link.members.wants_lane
        lane = await self._lane(sock, LaneState.AWAIT_RESUMED if resuming else LaneState.AWAIT_WELCOME)
        if resuming and self._link.members.wants_lane:
            await self._resume(lane)
        elif not resuming and self._link.session is None:
            await self._begin(lane)
        else:
            lane.abort()  # the peer connected first, or the session has ended in the meantime

    async def _connect(self) -> socket.socket:
        plan = self._plan
        plan.contexts()  # do not connect without a usable certificate
        try:
            return await connect(plan.host, plan.port, self._prepare, self._failed)
        except UnreachableError as error:
            raise UnreachableError(f"{self._link.peer} at {plan.host} port {plan.port}: {error}") from None

    def _prepare(self, sock: socket.socket, address: str) -> None:
        tune_lane(sock, self._plan.congestion, self._segment)
        if self._plan.source and _can_reach(self._plan.source, address):
            sock.bind(socket_address(self._plan.source, 0)[1])

    async def _begin(self, lane: Lane) -> None:
        outgoing = OutgoingLane(self._link)
        lane.start(outgoing)
        self._link.members.send_hello(lane, os.urandom(ID_SIZE))
        try:
            await outgoing.outcome(lane)
        finally:
            self._link.members.offer = None

    async def _resume(self, lane: Lane) -> None:
        outgoing = OutgoingLane(self._link)
        lane.start(outgoing)
        session = self._link.members.send_resume(lane)
        try:
            await outgoing.outcome(lane)
        except RefusedError as error:
            if error.code is Code.SESSION_UNKNOWN:
                self._unknown_there(lane, f"cannot resume: {error}", session)
            raise

    def _unknown_there(self, lane: Lane, reason: str, session: Session) -> None:
        """End the session if this address has carried it; another one may belong to another daemon."""
        if host_of(lane.remote) in self._link.members.places:
            self._link.end(Code.SESSION_UNKNOWN, reason, session)
        else:
            self._failed[self._address] = asyncio.get_running_loop().time()


def _can_reach(source: str, destination: str) -> bool:
    """Whether ``source`` is a specific address from which ``destination`` may be reachable."""
    ours, theirs = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if ours.is_unspecified or ours.version != theirs.version or ours.is_loopback != theirs.is_loopback:
        return False
    on_one_link = isinstance(ours, ipaddress.IPv6Address) and ours.is_link_local
    return theirs.is_link_local or not on_one_link


class OutgoingLane:
    """Handler of a dialled lane until the peer has answered. Implements LaneHandler."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def outcome(self, lane: Lane) -> None:
        """Return when the link owns the lane. Raises why the peer refused it or the connection failed.

        A failed attempt is aborted without GOAWAY: if the peer has already answered, GOAWAY would end the
        whole session.
        """
        within = self._link.plan.timeouts.answer
        try:
            await asyncio.wait([self._done], timeout=within)
        except asyncio.CancelledError:
            if self._done.cancel():  # else the link owns the lane already
                lane.abort()
            raise
        if not self._done.done():  # an answer at the last moment: the link owns the lane
            lane.abort()
            raise LaneStalled(f"{lane.peer} accepted the connection but sent no reply", within)
        self._done.result()

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Handle the answer; the lane's state allows no other frame."""
        if isinstance(frame, Welcome):
            self._link.members.on_welcome(lane, frame)
        elif isinstance(frame, Resumed):
            self._link.members.on_resumed(lane, frame)
        if not self._done.done():
            self._done.set_result(None)

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the answer."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """Report why the lane ended."""
        if not self._done.done():
            self._done.set_exception(reason)

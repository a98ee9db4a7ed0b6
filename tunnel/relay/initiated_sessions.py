"""Additional sessions that this host begins with a peer: when, on which worker, for which streams."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tunnel.errors import RefusedError, UnreachableError
from tunnel.net.sockets import is_deserted, reset
from tunnel.relay.dialer import DialPlan
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link import Link
from tunnel.relay.loops import post
from tunnel.relay.target_order import Release, TargetOrder
from tunnel.relay.timeouts import Timeouts
from tunnel.relay.worker_load import WorkerLoad
from tunnel.relay.worker_session import Ticket, WorkerSession
from tunnel.relay.workers import Worker, WorkerError, Workers
from tunnel.wire.codes import Code

AGAIN = 60.0
"""Seconds after such a failure in which no additional session is begun."""

FULL = 0.1
"""Interval in seconds at which a stream checks whether a peer at its stream limit accepts another."""


class InitiatedSessionsOwner(Protocol):
    """The group of all sessions with the peer."""

    standing: Link

    def make_further(self, number: int, worker: Worker) -> WorkerSession:
        """Create session ``number`` on ``worker`` without beginning it."""

    def settle(self) -> None:
        """Called when a session was added or removed."""

    def forget(self, further: WorkerSession) -> None:
        """Remove ``further``, which has ended or is about to."""

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""


class InitiatedSessions:
    """Assigns streams to sessions with one peer. ``dial``: how to dial it; None if no ingress leads there."""

    def __init__(
        self, owner: InitiatedSessionsOwner, workers: Workers, dial: DialPlan | None, busyness: WorkerLoad
    ) -> None:
        self.sessions: dict[int, WorkerSession] = {}
        self.closed = False  # begin no more
        self._owner = owner
        self._workers = workers
        self._dial = dial
        self._busyness = busyness
        self._order = TargetOrder()
        self._used = asyncio.Event()  # set while there are streams or sessions to check
        self._not_before = 0.0  # time.monotonic() before which none is begun

    @property
    def _timeouts(self) -> Timeouts:
        return self._owner.standing.plan.timeouts

    @property
    def parallel(self) -> bool:
        """Whether several sessions may be used: then streams to different targets are opened concurrently."""
        several = self._owner.standing.members.sessions > 1 and len(self._workers.fit) > 1
        return several and self._dial is not None and not self.closed

    @property
    def _alone(self) -> bool:
        """Whether the primary session is the only one possible."""
        return self._dial is None or len(self._workers) == 1

    @property
    def vacant(self) -> int:
        """How many more streams the peer accepts, over all sessions."""
        session = self._owner.standing.session
        vacant = session.places.vacant if session is not None else 0
        return vacant - sum(further.streams for further in self.sessions.values())

    # Streams.

    async def open(self, sock: socket.socket, target: str, deadline: float, uid: int | None = None) -> None:
        """Relay ``sock`` to ``target`` at the peer, in the session with the least loaded worker.

        Raises as ``Link.open`` does; then the caller owns ``sock``, which may be closed already.
        """
        standing, order = self._owner.standing, self._order
        if self._alone:
            await standing.open(sock, target, deadline, uid)
            return
        self._used.set()
        parallel = self.parallel or order.awaited(target)
        waits = parallel and order.taken(target)
        release = await order.turn(target) if parallel else order.join(target)
        try:
            if not parallel:  # all use the primary session, which preserves their order
                await standing.open(sock, target, deadline, uid, release)
                return
            waits |= await self._room(deadline)
            if waits and is_deserted(sock):  # a hypervisor treats its first connection as the migration
                raise RefusedError("the client disconnected while waiting")
            await self._lead(sock, target, deadline, uid, release)
        except BaseException:
            release()
            raise

    async def _room(self, deadline: float) -> bool:
        """Wait until the peer accepts another stream; False if it does now. RefusedError at ``deadline``."""
        loop, waited = asyncio.get_running_loop(), False
        while (session := self._owner.standing.session) is not None and self.vacant <= 0:
            if loop.time() >= deadline:
                allowed = session.places.allowed
                reason = f"the peer allows {allowed} streams at once (its transport.streams), all are in use"
                raise RefusedError(reason, Code.STREAM_LIMIT)
            waited = True
            await asyncio.sleep(FULL)
        return waited

    async def _lead(
        self, sock: socket.socket, target: str, deadline: float, uid: int | None, release: Release
    ) -> None:
        """Pass a connection to a session."""
        standing = self._owner.standing
        if (further := self._pick()) is None:
            await standing.open(sock, target, deadline, uid, release)
            return
        moved = socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        try:
            await self._open(further, moved, target, uid, release)
        except UnreachableError as error:
            self._give_up(further, str(error))
            try:
                await standing.open(moved, target, deadline, uid, release)
            except BaseException:
                reset(moved)
                raise

    async def _open(
        self, further: WorkerSession, sock: socket.socket, target: str, uid: int | None, release: Release
    ) -> None:
        """Open a stream on a worker, which then owns the socket.

        Only UnreachableError leaves the socket to the caller: a worker that owns it closes it.
        """
        assert self._dial is not None  # noqa: S101  else no session is picked
        loop, ticket = asyncio.get_running_loop(), Ticket()
        within = self._timeouts.additional
        answered: Callable[[], None] = partial(post, loop, release)
        call = (ticket, self._dial, sock, target, loop.time() + within, uid, answered)
        asked = asyncio.ensure_future(further.worker.call(further.open, *call))
        asked.add_done_callback(_retrieved)
        further.pending += 1
        try:
            await asyncio.wait([asked], timeout=within + self._timeouts.worker)
            if not asked.done():
                if ticket.take():
                    raise UnreachableError(f"worker {further.worker.number} does not answer")
                await asyncio.wait([asked])
        except asyncio.CancelledError:
            if ticket.take():
                reset(sock)
            else:
                asked.add_done_callback(partial(_forgotten, sock))
            raise
        finally:
            further.pending -= 1
        try:
            asked.result()
        except WorkerError as error:
            if ticket.take():
                raise
            raise RefusedError(f"{error} while it owned the connection", Code.INTERNAL) from None

    # Choice of session.

    def _pick(self) -> WorkerSession | None:
        """Return the session for the next stream, maybe a new one; None for the primary session."""
        main = self._workers.main
        if not self.parallel or self._owner.standing.session is None:
            return None
        loads = {worker: self._busyness.of(worker) + self._pending(worker) for worker in self._workers.fit}
        there = {each.worker: each for each in self.sessions.values() if each.worker in loads}
        best = main
        for worker in (*there, *(loads if self._may_begin() else ())):
            if loads[worker] < loads[best]:
                best = worker
        return None if best is main else there.get(best) or self._begin(best)

    def _pending(self, worker: Worker) -> int:
        return sum(further.pending for further in self.sessions.values() if further.worker is worker)

    def _may_begin(self) -> bool:
        room = len(self.sessions) < self._owner.standing.members.sessions - 1
        return room and time.monotonic() >= self._not_before

    def _begin(self, worker: Worker) -> WorkerSession:
        numbers = range(1, self._owner.standing.members.sessions)
        number = next(number for number in numbers if number not in self.sessions)
        further = self.sessions[number] = self._owner.make_further(number, worker)
        self._owner.settle()
        return further

    def _give_up(self, further: WorkerSession, reason: str) -> None:
        """Use the primary session for a while after an additional one failed to come up."""
        self._not_before = time.monotonic() + AGAIN
        text = f"streams use the primary session for the next {AGAIN:g} s: {reason}"
        self._owner.note(IncidentKind.NO_FURTHER_SESSION, text)
        if not further.streams:
            self.end(further, "it did not come up")

    # Idle sessions.

    async def keep(self) -> None:
        """End sessions that are idle. Never returns."""
        while True:
            await self._used.wait()
            await asyncio.sleep(self._timeouts.look)
            for worker in self._workers.fit:
                self._busyness.of(worker)
            for further in list(self.sessions.values()):
                self._judge(further, time.monotonic())
            if not (self.sessions or self._owner.standing.streams.pumps):
                self._used.clear()

    def _judge(self, further: WorkerSession, now: float) -> None:
        if further.streams:
            further.idle_since = None
        elif further.idle_since is None:
            further.idle_since = now
        elif now - further.idle_since >= self._timeouts.idle:
            self.end(further, f"no stream for {self._timeouts.idle:g} s")

    def end(self, further: WorkerSession, reason: str) -> None:
        """Assign no more streams to a session and end it. It has no streams: only this host opens them."""
        self._owner.forget(further)
        further.worker.send(further.end, Code.NONE, reason)


def _retrieved(asked: asyncio.Future[None]) -> None:
    """Retrieve the exception, so that the loop does not log it if the waiter is gone."""
    if not asked.cancelled():
        asked.exception()


def _forgotten(sock: socket.socket, asked: asyncio.Future[None]) -> None:
    """Reset a socket that a worker returns after the waiter is gone."""
    error = None if asked.cancelled() else asked.exception()
    if isinstance(error, UnreachableError) and not isinstance(error, WorkerError):
        reset(sock)

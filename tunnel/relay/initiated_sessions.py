"""Further sessions that this host begins with a peer: for which streams, in which worker, and until when."""

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
from tunnel.relay.link import Link
from tunnel.relay.loops import post
from tunnel.relay.target_order import Release, TargetOrder
from tunnel.relay.worker_load import WorkerLoad
from tunnel.relay.worker_session import Ticket, WorkerSession
from tunnel.relay.workers import Worker, WorkerError, Workers
from tunnel.wire.codes import Code

IDLE = 60.0
"""Seconds without a stream after which a further session is ended."""

TRIED = 3.0
"""Seconds that a stream waits for a further session to come up; then it takes the standing one."""

LATE = 1.0
"""Seconds that a worker may take longer than that to say so."""

AGAIN = 60.0
"""Seconds after that in which no further session is begun."""

LOOK = 1.0
"""Seconds between two looks at who is idle, and how busy workers are."""

FULL = 0.1
"""Seconds between two looks whether the peer, which has enough streams, takes another."""


class InitiatedSessionsOwner(Protocol):
    """All sessions with the peer, as those see them that this host begins."""

    standing: Link

    def make_further(self, number: int, worker: Worker) -> WorkerSession:
        """Make session ``number`` in ``worker``, not begun yet."""

    def settle(self) -> None:
        """There is a session more, or less."""

    def forget(self, further: WorkerSession) -> None:
        """``further`` has ended, or is about to."""

    def note(self, what: str, reason: str, **details: object) -> None:
        """Something happened that an operator should know."""


class InitiatedSessions:
    """See the module. ``dial`` makes the sessions; None where nothing leads to the peer from here."""

    def __init__(
        self, owner: InitiatedSessionsOwner, workers: Workers, dial: DialPlan | None, busyness: WorkerLoad
    ) -> None:
        self.sessions: dict[int, WorkerSession] = {}
        self.closed = False  # no more are begun
        self._owner = owner
        self._workers = workers
        self._dial = dial
        self._busyness = busyness
        self._order = TargetOrder()
        self._used = asyncio.Event()  # set while there are streams or sessions to look at
        self._not_before = 0.0  # of time.monotonic(): when to begin one again

    @property
    def parallel(self) -> bool:
        """Whether streams may go to several sessions: none has to wait for those to another target then."""
        several = self._owner.standing.sessions > 1 and len(self._workers.fit) > 1
        return several and self._dial is not None and not self.closed

    @property
    def _alone(self) -> bool:
        """Whether there never is another session than the standing one."""
        return self._dial is None or len(self._workers) == 1

    @property
    def vacant(self) -> int:
        """How many more streams the peer takes, over all sessions."""
        session = self._owner.standing.session
        vacant = session.places.vacant if session is not None else 0
        return vacant - sum(further.streams for further in self.sessions.values())

    # Streams.

    async def open(self, sock: socket.socket, target: str, deadline: float, uid: int | None = None) -> None:
        """Carry ``sock`` to ``target`` at the peer, in the session whose worker has least to do.

        Raises as ``Link.open`` does, and leaves ``sock`` to the caller then, who may find it closed.
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
            if not parallel:  # all take the standing session, which keeps their order
                await standing.open(sock, target, deadline, uid, release)
                return
            waits |= await self._room(deadline)
            if waits and is_deserted(sock):  # a hypervisor takes its first caller for the migration
                raise RefusedError("the caller hung up while it waited")
            await self._lead(sock, target, deadline, uid, release)
        except BaseException:
            release()
            raise

    async def _room(self, deadline: float) -> bool:
        """Wait until the peer takes another stream; whether it took none. RefusedError at ``deadline``."""
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
        """Take a caller whose turn it is to a session."""
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
        """Have a worker open a stream, which takes the socket. UnreachableError leaves that to the caller.

        So does nothing else: a socket that a worker has is closed there, and never led anywhere else.
        """
        assert self._dial is not None  # noqa: S101  else none is picked
        loop, ticket = asyncio.get_running_loop(), Ticket()
        answered: Callable[[], None] = partial(post, loop, release)
        call = (ticket, self._dial, sock, target, loop.time() + TRIED, uid, answered)
        asked = asyncio.ensure_future(further.worker.call(further.open, *call))
        asked.add_done_callback(_retrieved)
        further.pending += 1
        try:
            await asyncio.wait([asked], timeout=TRIED + LATE)
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
            raise RefusedError(f"{error}, and had the connection", Code.INTERNAL) from None

    # Which session.

    def _pick(self) -> WorkerSession | None:
        """Where the next stream is to go, perhaps a session that is begun for it; None: the standing one."""
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
        room = len(self.sessions) < self._owner.standing.sessions - 1
        return room and time.monotonic() >= self._not_before

    def _begin(self, worker: Worker) -> WorkerSession:
        numbers = range(1, self._owner.standing.sessions)
        number = next(number for number in numbers if number not in self.sessions)
        further = self.sessions[number] = self._owner.make_further(number, worker)
        self._owner.settle()
        return further

    def _give_up(self, further: WorkerSession, reason: str) -> None:
        """Take the standing session, for a while, where a further one does not come up."""
        self._not_before = time.monotonic() + AGAIN
        self._owner.note(
            "no further session", f"streams take the standing one for {AGAIN:g} seconds: {reason}"
        )
        if not further.streams:
            self.end(further, "it did not come up")

    # Until when.

    async def keep(self) -> None:
        """End sessions that are idle. Never returns."""
        while True:
            await self._used.wait()
            await asyncio.sleep(LOOK)
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
        elif now - further.idle_since >= IDLE:
            self.end(further, f"no stream for {IDLE:g} seconds")

    def end(self, further: WorkerSession, reason: str) -> None:
        """Give a session no more streams, and end it. Nothing is under way there: only we open streams."""
        self._owner.forget(further)
        further.worker.send(further.end, Code.NONE, reason)


def _retrieved(asked: asyncio.Future[None]) -> None:
    """Whoever asked may have gone: what came of it is no fault of the loop's."""
    if not asked.cancelled():
        asked.exception()


def _forgotten(sock: socket.socket, asked: asyncio.Future[None]) -> None:
    """Reset what comes back from a worker when nobody waits for it any more."""
    error = None if asked.cancelled() else asked.exception()
    if isinstance(error, UnreachableError) and not isinstance(error, WorkerError):
        reset(sock)

"""An additional session with a peer, in the loop of its worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import structlog

from tunnel.errors import UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.net.sockets import reset
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import receive
from tunnel.relay.link import Link, LinkPlan
from tunnel.relay.link_status import link_facts
from tunnel.relay.rotator import Rotator
from tunnel.relay.status_schema import LinkStatus
from tunnel.relay.stream_table import Answered
from tunnel.relay.workers import Worker
from tunnel.wire.codes import Code
from tunnel.wire.frames import Hello, Resume

log = structlog.get_logger()

_SEES_OFF = "incoming lane"
"""Name of tasks that continue until their lanes are gone."""


class Ticket:
    """Ownership token of a socket passed to a worker, which may be too late: the first taker owns it."""

    def __init__(self) -> None:
        self._left = [None]

    def take(self) -> bool:
        """Take it. Return whether it was not taken before. Thread-safe."""
        try:
            self._left.pop()
        except IndexError:
            return False
        return True


@dataclass(eq=False)
class WorkerSession:
    """A session in addition to the primary one. ``pending`` and ``idle_since`` belong to the main thread.

    ``prepare`` is called with the new link, ``over`` once the session has ended or failed to come up: both in
    the worker's loop.
    """

    plan: LinkPlan
    instance: bytes
    worker: Worker
    prepare: Callable[[Link], None]
    over: Callable[[WorkerSession], None]
    link: Link | None = None  # created by the worker
    pending: int = 0  # streams being passed to it
    idle_since: float | None = None  # time.monotonic()
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _lanes: list[Lane] = field(default_factory=list)  # accepted and still open

    @property
    def streams(self) -> int:
        """The number of its streams, pending ones included. Thread-safe."""
        return self.pending + (len(self.link.streams.pumps) if self.link is not None else 0)

    # In the worker's loop.

    async def open(
        self,
        ticket: Ticket,
        dial: DialPlan,
        sock: socket.socket,
        target: str,
        deadline: float,
        uid: int | None,
        answered: Answered,
    ) -> None:
        """Open a stream, see ``Link.open``. Begin the session if needed. Do nothing if the ticket is taken.

        UnreachableError leaves the socket to the caller; in all other cases it is owned or reset here.
        """
        if not ticket.take():
            return
        try:
            link = self.link or self._begin(dial)
            await link.open(sock, target, deadline, uid, answered)
        except UnreachableError:
            raise
        except BaseException:
            reset(sock)
            raise

    def _begin(self, dial: DialPlan) -> Link:
        """Create the link and dial the peer: a session that this host begins."""
        link = self._make()
        dialer = Dialer(dial, link)
        self._keep(dialer.run(), "dialer")
        self._keep(Rotator(link, dialer).run(), "rotator")
        return link

    def accept(self, lane: Lane, frame: Hello | Resume) -> None:
        """Accept a lane that the peer dialled, for a new or existing session of the peer."""
        self._keep(self._receive(lane, frame, self.link or self._make()), _SEES_OFF)

    async def facts(self) -> LinkStatus | None:
        """Return ``link_facts``, None if there is no link yet."""
        return None if self.link is None else link_facts(self.link)

    async def end(self, code: Code, reason: str) -> None:
        """Stop dialling, and end the session."""
        self._leave()
        if self.link is not None:
            await self.link.close(code, reason)

    def _make(self) -> Link:
        self.link = link = Link(self.plan, self.instance)
        self.worker.links[link] = None
        self.prepare(link)
        self._keep(self._follow(link), "additional session")
        return link

    async def _follow(self, link: Link) -> None:
        """Wait for the session to come up, and then for its end."""
        begun = False
        while not begun or link.session is not None:
            await link.wait_change()
            begun |= link.session is not None
        self._leave()

    async def _receive(self, lane: Lane, frame: Hello | Resume, link: Link) -> None:
        await receive(lane, frame, link, self._lanes)
        if link.session is None and not self._lanes:  # refused
            self._leave()

    def _leave(self) -> None:
        """Clean up after the session has ended, and report it once."""
        if self.link not in self.worker.links:
            return
        del self.worker.links[self.link]
        for task in self._tasks:
            if task.get_name() != _SEES_OFF and task is not asyncio.current_task():
                task.cancel()
        self.over(self)

    def _keep(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a further session failed", task=task.get_name(), peer=self.plan.peer, exc_info=error)
            if self.link is not None:
                self.link.end(Code.INTERNAL, f"internal error on {self.plan.host}: {error!r}")

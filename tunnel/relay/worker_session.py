"""One further session with a peer, in the loop of the worker that carries it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from tunnel.errors import UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.net.sockets import reset
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import receive
from tunnel.relay.link import Link, LinkPlan
from tunnel.relay.link_status import link_facts
from tunnel.relay.rotator import Rotator
from tunnel.relay.stream_table import Answered
from tunnel.relay.workers import Worker
from tunnel.wire.codes import Code
from tunnel.wire.frames import Hello, Resume

log = structlog.get_logger()

_SEES_OFF = "reception"
"""The tasks that go on until their lanes are gone."""


class Ticket:
    """Says whose a socket is that goes to a worker, which may come to it too late: who takes this first."""

    def __init__(self) -> None:
        self._left = [None]

    def take(self) -> bool:
        """Whether nobody has before. Any thread may ask."""
        try:
            self._left.pop()
        except IndexError:
            return False
        return True


@dataclass(eq=False)
class WorkerSession:
    """A session beside the standing one. ``pending`` and ``idle_since`` are the main thread's.

    ``prepare`` is called with the link when that is made, and ``over`` once the session has ended, or came to
    nothing: both in the worker's loop.
    """

    plan: LinkPlan
    instance: bytes
    worker: Worker
    prepare: Callable[[Link], None]
    over: Callable[[WorkerSession], None]
    link: Link | None = None  # made by the worker
    pending: int = 0  # streams that are on their way to it
    idle_since: float | None = None  # time.monotonic()
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _lanes: list[Lane] = field(default_factory=list)  # accepted and not gone

    @property
    def streams(self) -> int:
        """How many it has, or is about to have. Any thread may ask."""
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
        """See ``Link.open``. Begins the session if need be; takes the ticket, or leaves all as it is.

        UnreachableError leaves the socket to the caller; else it is seen to, however this ends.
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
        """Make the link and dial the peer: a session that this host begins."""
        link = self._make()
        dialer = Dialer(dial, link)
        self._keep(dialer.run(), "dialer")
        self._keep(Rotator(link, dialer).run(), "rotator")
        return link

    def accept(self, lane: Lane, frame: Hello | Resume) -> None:
        """Take a lane that the peer brought, for a session that it begins, or has."""
        self._keep(self._receive(lane, frame, self.link or self._make()), _SEES_OFF)

    async def facts(self) -> dict[str, Any] | None:
        """See ``link_facts``; None if there is no link yet."""
        return None if self.link is None else link_facts(self.link)

    async def end(self, code: Code, reason: str) -> None:
        """Dial no more, and end the session."""
        self._leave()
        if self.link is not None:
            await self.link.close(code, reason)

    def _make(self) -> Link:
        self.link = link = Link(self.plan, self.instance)
        self.worker.links[link] = None
        self.prepare(link)
        self._keep(self._follow(link), "further session")
        return link

    async def _follow(self, link: Link) -> None:
        """Wait for the session to come, and then for its end."""
        begun = False
        while not begun or link.session is not None:
            await link.wait_change()
            begun |= link.session is not None
        self._leave()

    async def _receive(self, lane: Lane, frame: Hello | Resume, link: Link) -> None:
        await receive(lane, frame, link, self._lanes)
        if link.session is None and not self._lanes:  # it was refused
            self._leave()

    def _leave(self) -> None:
        """The session is over, for good: say so once."""
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
                self.link.end(Code.INTERNAL, f"a fault of the daemon on {self.plan.host}: {error!r}")

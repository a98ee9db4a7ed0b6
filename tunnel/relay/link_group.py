"""All sessions with one peer: the standing one, and further ones that come when streams do and go when idle.

The standing session is in the daemon's own loop, worker 0. Where both hosts have several workers, each begins
further sessions as it needs them (``initiated_sessions``), and takes those that the peer begins. Whatever
belongs to the peer and not to a session is here: how much memory, how many streams, what ``status`` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from tunnel.errors import ProtocolError, UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.relay.dialer import DialPlan
from tunnel.relay.initiated_sessions import InitiatedSessions
from tunnel.relay.link import Link, LinkPlan
from tunnel.relay.link_status import Part, group_facts, link_facts
from tunnel.relay.loops import post
from tunnel.relay.target_check import TargetCheck
from tunnel.relay.transfer_log import Transfers, TransfersElsewhere
from tunnel.relay.worker_load import WorkerLoad
from tunnel.relay.worker_session import WorkerSession
from tunnel.relay.workers import Worker, Workers
from tunnel.wire.codes import Code
from tunnel.wire.frames import Hello, Resume

CLOSE_TIMEOUT = 5.0
"""Seconds that a worker may take to end its sessions: longer than a lane lingers."""

FACTS_TIMEOUT = 2.0
"""Seconds that a worker may take to tell of a session: less than a control command may take."""


class LinkGroup:
    """See the module. ``dial`` makes further sessions; None where nothing leads to the peer from here."""

    def __init__(
        self,
        plan: LinkPlan,
        instance: bytes,
        workers: Workers,
        dial: DialPlan | None = None,
        busyness: WorkerLoad | None = None,
    ) -> None:
        self.plan = replace(plan, sessions=len(workers))
        self.peer = plan.peer
        self.standing = Link(self.plan, instance)
        self._instance = instance
        self._loop = asyncio.get_running_loop()
        self._workers = workers
        self._busyness = busyness or WorkerLoad()
        self._own = InitiatedSessions(self, workers, dial, self._busyness)
        self._theirs: dict[int, WorkerSession] = {}
        self._draining = False
        self._transfers = Transfers(self.standing.log)
        self._past = {"resumes": 0, "streams_opened": 0}  # of sessions that have ended
        self.open = self._own.open
        workers.main.links[self.standing] = None
        workers.lost.append(self._forsake)
        self._prepare(self.standing)

    @property
    def parallel(self) -> bool:
        """Whether streams may go to several sessions: none has to wait for those to another target then."""
        return self._own.parallel

    @property
    def lanes(self) -> Mapping[int, Lane]:
        """Those of the standing session."""
        return self.standing.lanes

    @property
    def links(self) -> list[Link]:
        """Every session's, the standing one's first. Those of other workers are only to be looked at."""
        others = [further.link for further in self._others()]
        return [self.standing, *(link for link in others if link is not None)]

    def _others(self) -> list[WorkerSession]:
        return [*self._own.sessions.values(), *self._theirs.values()]

    # What the daemon asks of a peer's link.

    def note(self, what: str, reason: str, **details: object) -> None:
        """Log something that an operator should know, and remember it for ``status``."""
        self.standing.note(what, reason, **details)

    async def probe(self, target: str, deadline: float) -> TargetCheck:
        """See ``Link.probe``."""
        return await self.standing.probe(target, deadline)

    def record(self, text: str) -> None:
        """See ``Link.record``."""
        self.standing.record(text)

    async def keep(self) -> None:
        """End further sessions that are idle. Never returns."""
        await self._own.keep()

    def drain(self) -> None:
        """Open no more streams from this moment on."""
        self._draining = True
        for link in self.links:
            link.streams.draining = True

    async def close(self, code: Code, reason: str) -> None:
        """End all sessions, and return when the peer has heard of it, or had its time to."""
        self._own.closed = True
        await asyncio.gather(self.standing.close(code, reason), self._close_others(code, reason))

    async def _close_others(self, code: Code, reason: str) -> None:
        ends = [further.worker.call(further.end, code, reason) for further in self._others()]
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.gather(*ends, return_exceptions=True)

    async def facts(self) -> dict[str, Any]:
        """For ``status``: what all sessions together are, by the keys of ``link_facts``."""
        parts = [Part("standing", 0, link_facts(self.standing))]
        tables = (("ours", self._own.sessions), ("theirs", self._theirs))
        for name, further in [(f"{whose} {n}", each) for whose, table in tables for n, each in table.items()]:
            if not further.worker.fit:
                continue
            with suppress(UnreachableError, TimeoutError):
                async with asyncio.timeout(FACTS_TIMEOUT):
                    if (facts := await further.worker.call(further.facts)) is not None:
                        parts.append(Part(name, further.worker.number, facts))
        vacant = self._own.vacant if self.standing.session is not None else None
        return group_facts(parts, self._past, vacant)

    # What sessions have in common: SessionsOwner.

    def make_further(self, number: int, worker: Worker) -> WorkerSession:
        """Make session ``number`` in ``worker``, not begun yet."""
        over: Callable[[WorkerSession], None] = partial(post, self._loop, self.forget)
        plan = replace(self.plan, number=number)
        return WorkerSession(plan, self._instance, worker, self._prepare, over)

    def _prepare(self, link: Link) -> None:
        """A link is made, in its worker."""
        link.streams.draining = self._draining
        link.streams.count_theirs = self._count_theirs
        link.share(self._share)
        if link.plan.number:  # a migration is told of as one, whichever sessions its streams are in
            link.streams.transfers = TransfersElsewhere(self._loop, self._transfers, link)
        else:
            link.streams.transfers = self._transfers

    @property
    def _share(self) -> int:
        """Bytes of the link's memory that each session has."""
        return self.plan.settings.memory // (1 + len(self._others()))

    def settle(self) -> None:
        """There is a session more, or less: divide the memory anew."""
        self.standing.share(self._share)
        for further in self._others():
            if further.link is not None:
                post(further.worker.loop, further.link.share, self._share)

    def _count_theirs(self) -> int:
        """How many streams the peer has open, over all sessions. Any thread may ask."""
        sessions = [link.session for link in self.links]
        return sum(session.places.theirs for session in sessions if session is not None)

    def forget(self, further: WorkerSession) -> None:
        """A session has ended, or is about to."""
        for table in (self._own.sessions, self._theirs):
            if table.get(further.plan.number) is further:
                del table[further.plan.number]
                self.settle()
                if (link := further.link) is not None:
                    self._past["resumes"] += link.resumes
                    self._past["streams_opened"] += link.streams.opened
                    self.standing.incidents.adopt(link.incidents)

    def _forsake(self, worker: Worker) -> None:
        """A worker has ended, and what it carried."""
        for further in [each for each in self._others() if each.worker is worker]:
            self.forget(further)
            self.note("link down", f"a further session was in worker {worker.number}, which has ended")

    # Sessions that the peer begins: Receiver.

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer has reason to bring a lane: for a session that it has. Others may wait."""
        links = [further.link for further in self._theirs.values()]
        return self.standing.lacks_lane or any(link is None or link.lacks_lane for link in links)

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` is one of the standing link's, or may become one."""
        return self.standing.holds(lane)

    def welcome(self, lane: Lane, offer: Hello) -> None:
        """Answer a peer that begins the standing session. Raises ProtocolError."""
        self.standing.welcome(lane, offer)

    def readmit(self, lane: Lane, claim: Resume) -> None:
        """The peer replaces a lane of the standing session, or brings one more. Raises ProtocolError."""
        self.standing.readmit(lane, claim)

    def elsewhere(self, frame: Hello | Resume) -> Callable[[Lane], None] | None:
        """Who takes a lane with this first frame to another loop; None: nobody. Raises ProtocolError."""
        if isinstance(frame, Hello):
            if not frame.number:
                return None
            self._check(frame)
            return partial(self._take, frame)
        further = self._meant(frame)
        return None if further is None else partial(self._pass_on, further, frame)

    def _meant(self, claim: Resume) -> WorkerSession | None:
        """The further session that the peer means, if there is one."""
        for further in self._theirs.values():
            session = further.link.session if further.link is not None else None
            if session is not None and session.id == claim.session:
                return further
        return None

    def _check(self, offer: Hello) -> None:
        """Raise ProtocolError unless there is room for the session that the peer begins."""
        standing, known = self.standing, self._theirs.get(offer.number)
        if standing.session is None or standing.peer_instance != offer.instance:
            raise ProtocolError(Code.COLLISION, f"{self.plan.host} has no standing session with that daemon")
        if offer.number >= standing.sessions:
            detail = f"session {offer.number}, and there is room for {standing.sessions}"
            raise ProtocolError(Code.COLLISION, detail)
        # A worker that does not answer may have lanes that are long dead.
        link = known.link if known is not None and known.worker.fit else None
        if link is not None and link.lanes and link.peer_instance == offer.instance:
            raise ProtocolError(Code.COLLISION, "another connection has that session")

    def _take(self, offer: Hello, lane: Lane) -> None:
        """Begin the session that the peer offers, in place of one that it has left."""
        if (known := self._theirs.get(offer.number)) is not None:
            self.forget(known)
            known.worker.send(known.end, Code.COLLISION, f"{self.peer} began it anew")
        further = self.make_further(offer.number, self._busyness.least(self._workers.fit))
        self._theirs[offer.number] = further
        self.settle()
        self._pass_on(further, offer, lane)

    def _pass_on(self, further: WorkerSession, frame: Hello | Resume, lane: Lane) -> None:
        lane.leave()
        post(further.worker.loop, further.accept, lane, frame)


class EveryLink(Collection[Link]):
    """The links of all sessions with all peers, as they are whenever somebody asks."""

    def __init__(self, groups: Iterable[LinkGroup]) -> None:
        self._groups = groups

    def __iter__(self) -> Iterator[Link]:
        return iter([link for group in self._groups for link in group.links])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, link: object) -> bool:
        return link in list(iter(self))

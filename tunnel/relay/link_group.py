"""All sessions with one peer: the primary one, and additional ones, begun on demand and ended when idle.

The primary session is in the daemon's own loop, worker 0. If both hosts have several workers, each begins
additional sessions as it needs them (``initiated_sessions``), and accepts those that the peer begins. Here is
what belongs to the peer and not to one session: the memory limit, the stream limit, and ``status``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from tunnel.errors import ProtocolError, UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.relay.dialer import DialPlan
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.initiated_sessions import InitiatedSessions
from tunnel.relay.link import Link, LinkPlan
from tunnel.relay.link_status import Part, group_facts, link_facts
from tunnel.relay.loops import post
from tunnel.relay.status_schema import PRIMARY, LinkStatus
from tunnel.relay.target_check import TargetCheck
from tunnel.relay.transfer_log import Transfers, TransfersElsewhere
from tunnel.relay.worker_load import WorkerLoad
from tunnel.relay.worker_session import WorkerSession
from tunnel.relay.workers import Worker, Workers
from tunnel.wire.codes import Code
from tunnel.wire.frames import Hello, Resume

FACTS_TIMEOUT = 2.0
"""Seconds that a worker may take to report a session: less than a control command may take."""


class LinkGroup:
    """All links with one peer. ``dial``: how to dial it; None if no ingress leads there."""

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
        self._past = {"resumes": 0, "streams_opened": 0}  # sums over ended sessions
        self.open = self._own.open
        workers.main.links[self.standing] = None
        workers.lost.append(self._forsake)
        self._prepare(self.standing)

    @property
    def parallel(self) -> bool:
        """Whether several sessions may be used: then streams to different targets are opened concurrently."""
        return self._own.parallel

    @property
    def lanes(self) -> Mapping[int, Lane]:
        """The lanes of the primary session."""
        return self.standing.lanes

    @property
    def links(self) -> list[Link]:
        """The links of all sessions, the primary one's first. Only read those of other workers."""
        if not (self._own.sessions or self._theirs):
            return [self.standing]
        others = [further.link for further in self._others()]
        return [self.standing, *(link for link in others if link is not None)]

    def _others(self) -> list[WorkerSession]:
        return [*self._own.sessions.values(), *self._theirs.values()]

    # For the daemon, as with a single link.

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""
        self.standing.note(kind, reason, **details)

    async def probe(self, target: str, deadline: float) -> TargetCheck:
        """See ``Link.probe``."""
        return await self.standing.probe(target, deadline)

    def record(self, text: str) -> None:
        """See ``Link.record``."""
        self.standing.record(text)

    async def keep(self) -> None:
        """End additional sessions that are idle. Never returns."""
        await self._own.keep()

    def drain(self) -> None:
        """Open no more streams from now on."""
        self._draining = True
        for link in self.links:
            link.streams.draining = True

    async def close(self, code: Code, reason: str) -> None:
        """End all sessions, and wait until their lanes are closed, which takes a bounded time."""
        self._own.closed = True
        await asyncio.gather(self.standing.close(code, reason), self._close_others(code, reason))

    async def _close_others(self, code: Code, reason: str) -> None:
        ends = [further.worker.call(further.end, code, reason) for further in self._others()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.standing.plan.timeouts.close):
                await asyncio.gather(*ends, return_exceptions=True)

    async def facts(self) -> LinkStatus:
        """Return all sessions together for ``status``."""
        parts = [Part(PRIMARY, 0, link_facts(self.standing))]
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

    # Shared by all sessions. Implements InitiatedSessionsOwner.

    def make_further(self, number: int, worker: Worker) -> WorkerSession:
        """Create session ``number`` on ``worker`` without beginning it."""
        over: Callable[[WorkerSession], None] = partial(post, self._loop, self.forget)
        plan = replace(self.plan, number=number)
        return WorkerSession(plan, self._instance, worker, self._prepare, over)

    def _prepare(self, link: Link) -> None:
        """Initialise a new link, in its worker's loop."""
        link.streams.draining = self._draining
        link.streams.count_theirs = self._count_theirs
        link.members.share(self._share)
        if link.plan.number:  # a migration is logged as one, whichever sessions carry its streams
            link.streams.transfers = TransfersElsewhere(self._loop, self._transfers, link)
        else:
            link.streams.transfers = self._transfers

    @property
    def _share(self) -> int:
        """Bytes of the peer's memory limit for each session."""
        return self.plan.settings.memory // (1 + len(self._others()))

    def settle(self) -> None:
        """Divide the memory again: a session was added or removed."""
        self.standing.members.share(self._share)
        for further in self._others():
            if further.link is not None:
                post(further.worker.loop, further.link.members.share, self._share)

    def _count_theirs(self) -> int:
        """Return how many streams the peer has open, over all sessions. Thread-safe."""
        sessions = [link.session for link in self.links]
        return sum(session.places.theirs for session in sessions if session is not None)

    def forget(self, further: WorkerSession) -> None:
        """Remove a session that has ended or is about to, and keep its counters."""
        for table in (self._own.sessions, self._theirs):
            if table.get(further.plan.number) is further:
                del table[further.plan.number]
                self.settle()
                if (link := further.link) is not None:
                    self._past["resumes"] += link.resumes
                    self._past["streams_opened"] += link.streams.opened
                    self.standing.incidents.adopt(link.incidents)

    def _forsake(self, worker: Worker) -> None:
        """Remove the sessions of a worker that has ended."""
        for further in [each for each in self._others() if each.worker is worker]:
            self.forget(further)
            self.note(IncidentKind.LINK_DOWN, f"worker {worker.number} has ended, with an additional session")

    # Sessions that the peer begins. Implements LaneReceiver.

    @property
    def lacks_lane(self) -> bool:
        """Whether the peer is expected to dial a lane for a session that exists. New sessions may wait."""
        links = [further.link for further in self._theirs.values()]
        return self.standing.lacks_lane or any(link is None or link.lacks_lane for link in links)

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` belongs to the primary link, or may soon."""
        return self.standing.holds(lane)

    def on_hello(self, lane: Lane, offer: Hello) -> None:
        """Answer HELLO for the primary session. Raises ProtocolError."""
        self.standing.on_hello(lane, offer)

    def on_resume(self, lane: Lane, claim: Resume) -> None:
        """Answer RESUME or REPLACE for the primary session. Raises ProtocolError."""
        self.standing.on_resume(lane, claim)

    def elsewhere(self, frame: Hello | Resume) -> Callable[[Lane], None] | None:
        """Return what moves a lane with this first frame to another loop, or None. Raises ProtocolError."""
        if isinstance(frame, Hello):
            if not frame.number:
                return None
            self._check(frame)
            return partial(self._take, frame)
        further = self._meant(frame)
        return None if further is None else partial(self._pass_on, further, frame)

    def _meant(self, claim: Resume) -> WorkerSession | None:
        """Return the additional session that RESUME refers to, if there is one."""
        for further in self._theirs.values():
            session = further.link.session if further.link is not None else None
            if session is not None and session.id == claim.session:
                return further
        return None

    def _check(self, offer: Hello) -> None:
        """Raise ProtocolError if the session that the peer begins cannot be accepted."""
        standing, known = self.standing, self._theirs.get(offer.number)
        if standing.session is None or standing.members.peer_instance != offer.instance:
            raise ProtocolError(Code.COLLISION, f"{self.plan.host} has no primary session with that daemon")
        if offer.number >= standing.members.sessions:
            detail = f"session number {offer.number}, the limit is {standing.members.sessions} sessions"
            raise ProtocolError(Code.COLLISION, detail)
        # A worker that does not answer may have lanes that failed long ago.
        link = known.link if known is not None and known.worker.fit else None
        if link is not None and link.lanes and link.members.peer_instance == offer.instance:
            raise ProtocolError(Code.COLLISION, "another connection has that session")

    def _take(self, offer: Hello, lane: Lane) -> None:
        """Begin the session that the peer offers, in place of one that it abandoned."""
        if (known := self._theirs.get(offer.number)) is not None:
            self.forget(known)
            known.worker.send(known.end, Code.COLLISION, f"{self.peer} began the session again")
        further = self.make_further(offer.number, self._busyness.least(self._workers.fit))
        self._theirs[offer.number] = further
        self.settle()
        self._pass_on(further, offer, lane)

    def _pass_on(self, further: WorkerSession, frame: Hello | Resume, lane: Lane) -> None:
        lane.leave()
        post(further.worker.loop, further.accept, lane, frame)


class EveryLink(Collection[Link]):
    """A live view of the links of all sessions with all peers."""

    def __init__(self, groups: Iterable[LinkGroup]) -> None:
        self._groups = groups

    def __iter__(self) -> Iterator[Link]:
        return iter([link for group in self._groups for link in group.links])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, link: object) -> bool:
        return link in list(iter(self))

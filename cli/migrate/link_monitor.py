"""The state of one link during a migration, as the daemon reports it: throughput and incidents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from tunnel.daemon.control_socket import ask, ask_status, ask_targets
from tunnel.errors import TunnelError, UsageError
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link_plan import LinkState
from tunnel.relay.status_schema import DaemonStatus, IncidentStatus, LinkStatus, ProbeAnswer
from tunnel.virt.threads import in_thread
from tunnel.wire.codes import Code

PERIOD = 0.5
_ANEW = "the daemon of this host was restarted: the streams of the previous one ended with it"
_REFUSALS = {IncidentKind.STREAM_REFUSED_BY_PEER.name, IncidentKind.CALLER_REFUSED.name}
_NOT_THERE = {Code.TARGET_UNREACHABLE.name, Code.DRAINING.name, Code.LINK_LOST.name}


class Cause(Enum):
    """What an incident means for a migration that failed."""

    REFUSAL = auto()  # the peer or the local daemon refused a stream
    ABSENCE = auto()  # the target was unreachable, the link was down, or one of the daemons was stopping
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class LinkNews:
    """An incident of the link or of the local daemon during a migration, as text, and what it means."""

    text: str
    cause: Cause = Cause.OTHER


class LinkMonitor:
    """Monitors the link with ``peer`` through the daemon's ``control`` socket. ``rate``: bytes per second."""

    def __init__(self, control: Path, peer: str) -> None:
        self.peer = peer
        self.rate: float | None = None
        self._control = control
        self._known: list[IncidentStatus] | None = None  # None: not watching yet
        self._pid = 0  # the daemon's; incidents are lost with a restart
        self._since: str | None = None  # the start of the link's state at that time

    async def link(self) -> LinkStatus:
        """Return the link's current entry in ``status``.

        Raises UnreachableError when no daemon answers, UsageError when it has no such peer.
        """
        return (await self._ask())[1]

    async def faults(self) -> list[tuple[str, str]]:
        """Return the redirects on this host that do not work, as (listen, reason). Raises TunnelError."""
        redirects = [(each["listen"], each.get("redirect")) for each in (await self._status())["ingresses"]]
        broken = [(listen, found["reason"]) for listen, found in redirects if found and not found["works"]]
        return [(listen, reason or "") for listen, reason in broken]

    async def probe(self, targets: Sequence[str]) -> list[ProbeAnswer]:
        """Ask the peer whether it would accept streams to ``targets``; it dials nothing.

        Raises TunnelError when there is no reply.
        """
        return await in_thread("probe", lambda: ask_targets(self._control, self.peer, targets))

    async def record(self, text: str) -> None:
        """Log ``text`` on both hosts, if the daemons are reachable."""
        line = "".join(each if each.isprintable() else " " for each in text)
        with contextlib.suppress(TunnelError):
            await in_thread("record", lambda: ask(self._control, "record", peer=self.peer, text=line))

    async def draining(self) -> bool:
        """Return whether the local daemon is stopping. Raises UnreachableError when none answers."""
        return (await self._status())["draining"]

    async def _ask(self) -> tuple[int, LinkStatus]:
        """Return the daemon's process id and the link's entry in its status."""
        facts = await self._status()
        for link in facts["links"]:
            if link["peer"] == self.peer:
                return facts["pid"], link
        raise UsageError(f"the running daemon has no peer {self.peer}: restart it with this configuration")

    async def _status(self) -> DaemonStatus:
        return await in_thread("status", lambda: ask_status(self._control))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep ``rate`` current inside the context; ``news`` returns the incidents from here on."""
        self._pid, link = await self._ask()
        self._known, self._since = link["incidents"], link["since"]
        task = asyncio.create_task(self._run(), name="watch the tunnel")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def news(self) -> list[LinkNews]:
        """Return the incidents since ``watching`` began, including the end of the daemon; none before."""
        if self._known is None:
            return []
        try:
            pid, link = await self._ask()
        except TunnelError as error:
            return [LinkNews(f"the daemon of this host does not answer: {error}")]
        fresh = [each for each in link["incidents"] if each not in self._known]
        news = [LinkNews(f"{each['what']}: {each['reason']}", cause_of(each)) for each in fresh]
        if pid != self._pid:
            news.insert(0, LinkNews(_ANEW))
        return news

    async def held(self) -> bool:
        """Return whether the link has been up without interruption since ``watching`` began.

        If so, a connection through it that has ended was closed by its target.
        """
        with contextlib.suppress(TunnelError):
            pid, link = await self._ask()
            return (pid, link["state"], link["since"]) == (self._pid, LinkState.UP, self._since)
        return False

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        before: tuple[float, int] | None = None
        while True:
            sent = None
            with contextlib.suppress(TunnelError):
                sent = sum(lane["bytes_sent"] for lane in (await self.link())["lanes"])
            now = loop.time()
            self.rate = rate_between(before, (now, sent)) if sent is not None else None
            before = (now, sent) if sent is not None else None
            await asyncio.sleep(PERIOD)


def rate_between(before: tuple[float, int] | None, now: tuple[float, int]) -> float | None:
    """Return bytes per second between two readings; None when unknown, such as after a change of lanes."""
    if before is None or now[1] < before[1] or now[0] <= before[0]:
        return None
    return (now[1] - before[1]) / (now[0] - before[0])


def cause_of(incident: IncidentStatus) -> Cause:
    """Return what an incident means, by its kind and code. A daemon of an older version reports no kind."""
    if incident.get("kind") not in _REFUSALS:
        return Cause.OTHER
    return Cause.ABSENCE if incident["code"] in _NOT_THERE else Cause.REFUSAL

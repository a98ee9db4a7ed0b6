"""Two hosts with several workers each, in this process: link groups, a lane acceptor, real TLS between them.

Targets are unix sockets of the test. The test's event loop is worker 0 of both hosts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.lanes import MAKERS, Hosts
from tests.support.waiting import until
from tunnel.lanes.lane_factory import LaneMaker
from tunnel.relay.allow_list import AllowList
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link, LinkPlan, LinkState
from tunnel.relay.link_group import LinkGroup
from tunnel.relay.rotator import Rotator
from tunnel.relay.worker_session import WorkerSession
from tunnel.relay.workers import Workers
from tunnel.wire.codes import Code

PATIENCE = 30.0
"""Timeout in seconds for opening a stream."""


@dataclass
class Side:
    """One host: its workers, its link group with the other one, and its incidents."""

    group: LinkGroup
    workers: Workers
    told: list[tuple[str, str]]

    @property
    def ours(self) -> dict[int, WorkerSession]:
        """The additional sessions that it has started."""
        return self.group._own.sessions

    @property
    def theirs(self) -> dict[int, WorkerSession]:
        """Those that the other one has started."""
        return self.group._theirs

    @property
    def spread(self) -> list[int]:
        """The number of streams of each worker."""
        return [sum(len(link.streams.pumps) for link in list(each.links)) for each in self.workers.all]

    def reasons(self) -> list[str]:
        """Return its incidents, as text."""
        return [f"{each.kind}: {each.reason}" for link in self.group.links for each in link.incidents]


@dataclass
class Stage:
    """Host a, which dials, and host b."""

    a: Side
    b: Side
    directory: Path
    reception: LaneAcceptor
    dials: asyncio.Event  # set: a dials b
    _stack: AsyncExitStack
    _servers: dict[str, socket.socket] = field(default_factory=dict)

    def listen(self, name: str = "target") -> str:
        """Listen on a target on b; return its address."""
        path = self.directory / name
        server = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(64)
        server.setblocking(False)
        self._servers[f"unix:{path}"] = server
        return f"unix:{path}"

    async def ask(self, target: str) -> socket.socket:
        """Open a stream for a hypervisor on a; return the hypervisor's end."""
        ours, caller = socket.socketpair()
        caller.setblocking(False)
        self._stack.enter_context(caller)
        try:
            deadline = asyncio.get_running_loop().time() + PATIENCE
            await self.a.group.open(ours, target, deadline, 0)
        except BaseException:
            ours.close()
            raise
        return caller

    async def accept(self, target: str) -> socket.socket:
        """Return the next connection at a target."""
        async with asyncio.timeout(PATIENCE):
            called, _ = await asyncio.get_running_loop().sock_accept(self._servers[target])
        return self._stack.enter_context(called)

    async def stream(self, target: str) -> tuple[socket.socket, socket.socket]:
        """Open a stream from a to b; return the hypervisors' ends of it."""
        caller = await self.ask(target)
        return caller, await self.accept(target)


def worker_of(side: Side, number: int) -> Link:
    """Return the only link of a worker."""
    (link,) = list(side.workers.all[number].links)
    return link


@asynccontextmanager
async def staged(
    hosts: Hosts,
    directory: Path,
    counts: tuple[int, int] = (3, 3),
    kind: str = "userspace",
    *,
    up: bool = True,
    **plan: Any,
) -> AsyncIterator[Stage]:
    """Start two hosts with these numbers of workers, linked if ``up``. ``plan``: for both LinkPlans."""
    async with AsyncExitStack() as stack:
        b = await _side(stack, counts[1], _plan("hostb", "hosta", directory, plan), None)
        acceptor = LaneAcceptor("127.0.0.1", 0, lambda: hosts.b, None, {"hosta": b.group}, MAKERS[kind])
        stack.push_async_callback(acceptor.close)
        port = acceptor._listener._sock.getsockname()[1]
        dial = _dial(port, hosts, MAKERS[kind])
        a = await _side(stack, counts[0], _plan("hosta", "hostb", directory, plan), dial)
        dialer, dials = Dialer(dial, a.group.standing), asyncio.Event()
        for work in (
            _after(dials, dialer),
            Rotator(a.group.standing, dialer).run(),
            a.group.keep(),
            b.group.keep(),
        ):
            stack.push_async_callback(_cancelled, asyncio.create_task(work))
        if up:
            dials.set()
            both = (a.group.standing, b.group.standing)
            await until(lambda: all(link.state is LinkState.UP for link in both), "for the primary link")
        yield Stage(a, b, directory, acceptor, dials, stack)


async def _after(event: asyncio.Event, dialer: Dialer) -> None:
    await event.wait()
    await dialer.run()


def _plan(host: str, peer: str, directory: Path, changes: dict[str, Any]) -> LinkPlan:
    return replace(LinkPlan(host, peer, egress=AllowList.parse([f"unix:{directory}/*"])), **changes)


def _dial(port: int, hosts: Hosts, make_lane: LaneMaker) -> DialPlan:
    return DialPlan("127.0.0.1", port, lambda: hosts.a, None, None, make_lane)


async def _side(stack: AsyncExitStack, count: int, plan: LinkPlan, dial: DialPlan | None) -> Side:
    told: list[tuple[str, str]] = []
    workers = Workers(count, lambda what, reason: told.append((what, reason)))
    stack.push_async_callback(workers.stop)
    await workers.start()
    group = LinkGroup(plan, plan.host.encode().ljust(16), workers, dial)
    stack.push_async_callback(group.close, Code.NONE, "end of test")
    return Side(group, workers, told)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """The certificates of both hosts."""
    return Hosts.create(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def stage(identities: Hosts, tmp: Path) -> AsyncIterator[Stage]:
    """Two hosts with three workers each."""
    async with staged(identities, tmp) as found:
        yield found

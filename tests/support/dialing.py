"""A dialer, and the other end of its connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link
from tunnel.tls.contexts import TlsContexts
from tunnel.wire.codes import Code


@dataclass
class World:
    """Host a, whose dialer is tested, and the contexts and port of host b."""

    a: TlsContexts
    b: TlsContexts
    other: TlsContexts
    port: int

    def plan(self, host: str = "127.0.0.1") -> DialPlan:
        return DialPlan(host, self.port, lambda: self.a, None)


def dialling(link: Link, plan: DialPlan) -> AbstractAsyncContextManager[None]:
    return running(Dialer(plan, link), link)


@asynccontextmanager
async def running(dialer: Dialer, link: Link) -> AsyncIterator[None]:
    task = asyncio.create_task(dialer.run())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await link.close(Code.NONE, "end of test")


@asynccontextmanager
async def receiving(world: World, link: Link) -> AsyncIterator[LaneAcceptor]:
    acceptor = LaneAcceptor("127.0.0.1", world.port, lambda: world.b, None, {"hosta": link})
    try:
        yield acceptor
    finally:
        await acceptor.close()
        await link.close(Code.NONE, "end of test")


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[Callable[[], asyncio.Future[socket.socket]]]:
    """Listen on host b's port without a daemon; yield a function that accepts a connection."""
    loop = asyncio.get_running_loop()
    taken: list[socket.socket] = []

    async def accept() -> socket.socket:
        async with asyncio.timeout(60):
            sock, _ = await loop.sock_accept(server)
        taken.append(sock)
        return sock

    with socket.create_server(("127.0.0.1", world.port)) as server:
        server.setblocking(False)
        yield lambda: asyncio.ensure_future(accept())
        for sock in taken:
            sock.close()

"""Two links with real lanes of any kind at each end: a relay without daemons.

The content of streams is generated at the sender and verified at the receiver, by a hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.cutter import Cutter
from tests.support.lanes import KINDS, MAKERS, Hosts, Kinds
from tests.support.waiting import until
from tunnel.relay.allow_list import AllowList
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link, LinkPlan, LinkState
from tunnel.relay.pump import Pump
from tunnel.relay.rotator import Rotator
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB
from tunnel.wire.codes import Code
from tunnel.wire.rotation import RotationPlan

_PERIOD = 1_048_583  # prime, so that no size hides a shift
_NOISE = random.Random(49153).randbytes(_PERIOD) * 2


def content(start: int, size: int) -> bytes:
    """Return the content of every stream from byte ``start``; at most 1 MiB of it."""
    first = start % _PERIOD
    return _NOISE[first : first + size]


@dataclass
class Relay:
    """Links a and b, with a ``cutter`` between them if requested."""

    a: Link
    b: Link
    directory: Path
    cutter: Cutter | None

    async def stream(
        self, local: tuple[socket.socket, socket.socket] | None = None
    ) -> tuple[socket.socket, socket.socket]:
        """Open a stream from a to b; return the hypervisors' ends of it. ``local``: both ends at a."""
        loop = asyncio.get_running_loop()
        path = self.directory / f"target{self.a.streams.opened}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            server.setblocking(False)
            ours, caller = local or socket.socketpair()
            await self.a.open(ours, f"unix:{path}", loop.time() + 10)
            async with asyncio.timeout(60):
                called, _ = await loop.sock_accept(server)
        caller.setblocking(False)
        return caller, called

    @property
    def idle(self) -> bool:
        """Whether no stream is left."""
        return not (self.a.streams.pumps or self.b.streams.pumps)


@asynccontextmanager
async def relaying(
    hosts: Hosts,
    kinds: Kinds,
    directory: Path,
    *,
    cut: bool = False,
    rotation: RotationPlan = RotationPlan(),  # noqa: B008  immutable
) -> AsyncIterator[Relay]:
    """Start a relay whose link is up. ``kinds`` are names of MAKERS; a dials."""
    a, b = (
        Link(
            LinkPlan(
                host,
                peer,
                rotation=rotation,
                egress=AllowList.parse([f"unix:{directory}/*"]),
                pump=_pump(kind),
            ),
            host.encode().ljust(16),
        )
        for host, peer, kind in (("hosta", "hostb", kinds[0]), ("hostb", "hosta", kinds[1]))
    )
    acceptor = LaneAcceptor("127.0.0.1", 0, lambda: hosts.b, None, {"hosta": b}, MAKERS[kinds[1]])
    port = acceptor._listener._sock.getsockname()[1]
    cutter = Cutter(f"127.0.0.1:{port}") if cut else None
    host, _, port_text = cutter.address.rpartition(":") if cutter else ("127.0.0.1", "", str(port))
    plan = DialPlan(host, int(port_text), lambda: hosts.a, None, None, MAKERS[kinds[0]])
    dialer = Dialer(plan, a)
    tasks = [asyncio.create_task(dialer.run()), asyncio.create_task(Rotator(a, dialer).run())]
    try:
        await until(lambda: a.state is b.state is LinkState.UP, "for the link")
        yield Relay(a, b, directory, cutter)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(a.close(Code.NONE, "end of test"), b.close(Code.NONE, "end of test"))
        await acceptor.close()
        if cutter is not None:
            await asyncio.to_thread(cutter.close)


def _pump(kind: str) -> type[Pump]:
    return SplicedPump if KINDS[kind] is LaneKind.KERNEL else Pump


async def send(sock: socket.socket, total: int, sizes: Iterable[int] = (64 * KIB,)) -> None:
    """Send ``total`` bytes, in calls of these sizes in turn, and EOF."""
    loop, sent, turn = asyncio.get_running_loop(), 0, list(sizes)
    while sent < total:
        data = content(sent, min(turn[0], total - sent))
        await loop.sock_sendall(sock, data)
        sent += len(data)
        turn.append(turn.pop(0))
    sock.shutdown(socket.SHUT_WR)


async def take(sock: socket.socket, total: int, *, slowly: bool = False) -> None:
    """Read to EOF and verify: exactly ``total`` bytes with the expected content."""
    loop, wanted, got, taken = asyncio.get_running_loop(), hashlib.sha256(), hashlib.sha256(), 0
    while data := await loop.sock_recv(sock, 4099 if slowly else 64 * KIB):
        got.update(data)
        wanted.update(content(taken, len(data)))
        taken += len(data)
        if slowly:
            await asyncio.sleep(0)
    assert taken == total
    assert got.digest() == wanted.digest()

"""Two links joined by pipe lanes, without ingress and egress: the test provides both local sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tests.support.pipelane import PipeLane, pipe
from tests.support.waiting import until
from tunnel.errors import RefusedError
from tunnel.relay.address import TargetAddress, parse_target
from tunnel.relay.dialer import OutgoingLane
from tunnel.relay.lane_acceptor import IncomingLane
from tunnel.relay.link import Link, LinkPlan
from tunnel.units import MIB
from tunnel.wire.codes import Code
from tunnel.wire.frames import GoAway, Hello, Limits
from tunnel.wire.negotiation import hello
from tunnel.wire.states import LaneState

TARGET = "tcp:127.0.0.1:49152"


@dataclass
class Requests:
    """A stub of a link's egress: records the requests of the peer, for the test to answer."""

    wanted: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    closed: int = 0
    dialling: bool = False

    def request(self, number: int, text: str) -> None:
        assert text == TARGET
        self.wanted.append(number)

    def admit(self, text: str) -> TargetAddress:
        if text != TARGET:
            raise RefusedError(f"{text} is not on the allow list", Code.TARGET_FORBIDDEN)
        return parse_target(text)

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def close(self) -> None:
        self.closed += 1
        self.wanted.clear()


def make_link(host: str, peer: str, instance: bytes = b"", **plan: Any) -> Link:
    """Return a link with a stubbed egress. ``plan``: keywords of the LinkPlan."""
    link = Link(LinkPlan(host, peer, **plan), instance or host.encode().ljust(16, b"."))
    link.streams._egress = Requests()  # type: ignore[assignment]  # a stub with the same methods
    return link


def hurry(link: Link, **timeouts: float) -> None:
    """Give ``link`` these shorter timeouts from now on; see ``Timeouts``."""
    link.plan = replace(link.plan, timeouts=replace(link.plan.timeouts, **timeouts))


def requests_of(link: Link) -> Requests:
    """Return the requests of the peer of ``link``."""
    egress = link.streams._egress
    assert isinstance(egress, Requests)
    return egress


def join(dialing: Link, accepting: Link) -> PipeLane:
    """Let one link dial the other, for a session or to replace a lost lane; return the dialing end."""
    state = LaneState.AWAIT_RESUMED if dialing.members.wants_lane else LaneState.AWAIT_WELCOME
    near, far = pipe(dialing.plan.host, accepting.plan.host, state)
    far.start(IncomingLane(accepting, accepting.plan.timeouts))
    outgoing = OutgoingLane(dialing)
    outgoing._done.add_done_callback(lambda done: done.exception())
    near.start(outgoing)
    if dialing.members.wants_lane:
        dialing.members.send_resume(near)
    else:
        dialing.members.send_hello(near, f"session {id(near)}".encode().ljust(16)[:16])
    return near


def rejoin(dialing: Link, accepting: Link, old: int) -> PipeLane:
    """Let one link dial the other to replace lane ``old``, which is up; return the dialing end."""
    near, far = pipe(dialing.plan.host, accepting.plan.host, LaneState.AWAIT_RESUMED)
    far.start(IncomingLane(accepting, accepting.plan.timeouts))
    outgoing = OutgoingLane(dialing)
    outgoing._done.add_done_callback(lambda done: done.exception())
    near.start(outgoing)
    dialing.members.send_resume(near, old)
    return near


class Pair:
    """Links a and b, joined by a lane that a dialled. ``theirs``: differing plan keywords of b."""

    def __init__(self, theirs: Mapping[str, Any] | None = None, **plan: Any) -> None:
        self.a = make_link("hosta", "hostb", **plan)
        self.b = make_link("hostb", "hosta", **{**plan, **(theirs or {})})
        self.lane = join(self.a, self.b)
        self.sockets: list[socket.socket] = []

    async def up(self) -> Pair:
        """Wait for both ends of the lane."""
        await until(lambda: self.a.lanes and self.b.lanes, "for the lane")
        return self

    async def resume(self) -> PipeLane:
        """Replace the lost lane, from a's side."""
        self.lane = join(self.a, self.b)
        await until(lambda: self.a.lanes and self.b.lanes, "for the lane")
        return self.lane

    async def stream(
        self, source: Link | None = None, *, unix: bool = False
    ) -> tuple[socket.socket, socket.socket]:
        """Open a stream; return the hypervisors' ends, first the opener's, which may be a unix socket."""
        opener = source or self.a
        other = self.b if opener is self.a else self.a
        caller = await self.request(opener, unix=unix)
        await until(lambda: requests_of(other).wanted, "for the request")
        here, called = self.local()
        other.streams.on_dialled(requests_of(other).wanted.pop(), here)
        return caller, called

    async def request(self, opener: Link, *, unix: bool = False) -> socket.socket:
        """Request a stream; return the caller's end."""
        here, caller = self.local(unix=unix)
        await opener.open(here, TARGET, asyncio.get_running_loop().time() + 5)
        return caller

    def local(self, *, unix: bool = False) -> tuple[socket.socket, socket.socket]:
        """Return a daemon's local socket and the hypervisor's end of it."""
        if unix:
            daemon, hypervisor = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                hypervisor = socket.create_connection(server.getsockname())
                daemon, _ = server.accept()
        for sock in (daemon, hypervisor):
            sock.setblocking(False)
        self.sockets.append(hypervisor)
        return daemon, hypervisor

    def close(self) -> None:
        """Close both links and every socket."""
        for link in (self.a, self.b):
            link.end(Code.NONE, "end of test")
        for sock in self.sockets:
            sock.close()


def pipes(link: Link) -> dict[int, PipeLane]:
    """Return the lanes of a link, which a test can cut."""
    return cast("dict[int, PipeLane]", link.lanes)


async def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    async with asyncio.timeout(60):
        while len(data) < count:
            chunk = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
            assert chunk, f"connection closed after {len(data)} of {count} bytes"
            data += chunk
    return data


async def ending(sock: socket.socket) -> str:
    """Return how a stream ends for a hypervisor: "close" or "reset"."""
    async with asyncio.timeout(60):
        try:
            while await asyncio.get_running_loop().sock_recv(sock, MIB):
                pass
        except ConnectionResetError:
            return "reset"
    return "close"


async def exchange(one: socket.socket, other: socket.socket) -> None:
    one.send(b"there")
    assert await receive(other, 5) == b"there"
    other.send(b"back")
    assert await receive(one, 4) == b"back"


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def last(link: Link) -> tuple[str, str]:
    return link.incidents[-1].kind, link.incidents[-1].reason


def offered(instance: bytes, session: bytes = b"S" * 16) -> Hello:
    return hello(session, instance, Limits(16, 16))


def called_by(link: Link) -> PipeLane:
    """Return a lane from ``link``'s peer, controlled by the test."""
    near, far = pipe(link.peer, link.plan.host)
    far.start(IncomingLane(link, link.plan.timeouts))
    return near


def goodbye(said: bytearray) -> Code:
    """Return the code of the GOAWAY at the end of the sent data."""
    start = said.rindex(bytes([GoAway.type]) + bytes(7))
    return Code(int.from_bytes(said[start + 20 : start + 22]))

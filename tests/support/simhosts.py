"""Daemons on a simulated network: each with the product's link, dialer, rotator, lane acceptor and pumps.

Only kernel interfaces are replaced: sockets and connecting (``simloop``), TLS (``simlane``), and the programs
that listen on targets, which ``Answer`` provides.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch

import structlog

from tests.support.simlane import SimLane, shake_hands
from tests.support.simloop import SimLoop, Socket, connected
from tunnel.errors import RefusedError, UnreachableError
from tunnel.lanes.lane import Lane
from tunnel.net.connect import TIMEOUT
from tunnel.relay import dialer as dialer_module
from tunnel.relay import lane_acceptor as acceptor_module
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link, LinkPlan
from tunnel.relay.rotator import Rotator
from tunnel.wire.codes import Code, FrameType
from tunnel.wire.rotation import RotationPlan
from tunnel.wire.session import Settings
from tunnel.wire.states import LaneState

PORT = 16515


def name_at(address: str) -> str:
    """Return the certificate name of the host at ``address``; duplicate hosts have an apostrophe appended."""
    return address.rstrip("'")


@dataclass(eq=False)
class Connection:
    """A TCP connection between two hosts. ``near`` is the dialling end."""

    near: Socket
    far: Socket

    @property
    def ends(self) -> tuple[Socket, Socket]:
        return self.near, self.far

    @property
    def open(self) -> bool:
        return not (self.near.closed and self.far.closed)

    def ways(self, which: int) -> list[Any]:
        """Return directions by mask: 1: from the dialling host, 2: to it, 3: both."""
        return [end.way for bit, end in ((1, self.near), (2, self.far)) if which & bit]

    def cut(self, notice: int, number: int) -> None:
        """Lose all data in transit. ``notice``: mask, as in ``ways``, of ends that get error ``number``."""
        for way in self.ways(3):
            way.lose()
        for bit, end in ((1, self.near), (2, self.far)):
            if notice & bit:
                end.fail(number)


@dataclass(eq=False)
class Trap:
    """An action when a lane of host ``speaker`` is about to send a frame of ``type``."""

    speaker: str
    type: FrameType
    spring: Callable[[Connection], None]


@dataclass(eq=False)
class Network:
    """Hosts by address, and the connections between them."""

    delay: float = 0.001
    capacity: int = 1 << 16
    lossy: bool = False  # a delayed reset is lost
    listeners: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    connections: list[Connection] = field(default_factory=list)
    traps: list[Trap] = field(default_factory=list)
    loop: SimLoop = field(init=False)
    heal: asyncio.Event = field(default_factory=asyncio.Event)
    _outages: dict[int, int] = field(default_factory=dict)
    _ports: Iterator[int] = field(default_factory=lambda: itertools.count(40000))

    def living(self) -> list[Connection]:
        self.connections = [each for each in self.connections if each.open]
        return self.connections

    def of(self, sock: Socket) -> Connection:
        return next(each for each in self.connections if sock in each.ends)

    # Faults.

    def outage(self, which: int, seconds: float) -> None:
        """Block the network between the hosts for a while; ``which`` as in ``Connection.ways``, of the
        connections that ``hosta`` dialled."""
        number = next(self._ports)
        self._outages[number] = which
        held = [way for each in self.living() for way in each.ways(self._seen(each, which))]
        for way in held:
            way.hold()

        def over() -> None:
            del self._outages[number]
            for way in held:
                way.release()
            self.heal.set()

        self.loop.call_later(seconds, over)

    @staticmethod
    def _seen(connection: Connection, which: int) -> int:
        swapped = {1: 2, 2: 1, 3: 3}
        return which if name_at(connection.near.getsockname()[0]) == "hosta" else swapped[which]

    def hold(self, connection: Connection, which: int, seconds: float) -> None:
        for way in connection.ways(which):
            way.hold()
            self.loop.call_later(seconds, way.release)

    def said(self, lane: SimLane, kind: FrameType) -> None:
        speaker = lane.sock.getsockname()[0]
        for trap in [each for each in self.traps if (each.speaker, each.type) == (speaker, kind)]:
            self.traps.remove(trap)
            trap.spring(self.of(lane.sock))

    # Called by hosts.

    async def connect(self, host: str, port: int, prepare: object, failed: Mapping[str, float]) -> Socket:
        """Replace ``net.connect.connect``; ``host`` is the dialling and the dialled address."""
        source, target = host.split(" ")
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.sleep(2 * self.delay)
                while self._outages:
                    self.heal.clear()
                    await self.heal.wait()
        except TimeoutError:
            raise UnreachableError("connection timed out") from None
        found = [address for address in (target, f"{target}'") if address in self.listeners]
        if not found:
            raise UnreachableError("connection refused")
        address = min(found, key=lambda each: failed.get(each, 0.0))
        near, far = (source, next(self._ports)), (address, port)
        ends = connected(self.loop, near, far, delay=self.delay, capacity=self.capacity)
        for end in ends:
            end.lossy = self.lossy
        self.connections.append(Connection(*ends))
        self.listeners[address](ends[1])
        return ends[0]

    async def make_lane(
        self, sock: Any, contexts: object, peers: object, state: LaneState, *, dialing: bool
    ) -> Lane:
        """Replace the TLS lane factory."""
        await shake_hands(sock, dialing=dialing)
        return SimLane(sock, name_at(sock.getpeername()[0]), state, self.said)


class _Listener:
    """Replaces ``net.listener.Listener``."""

    network: Network

    def __init__(self, host: str, accepted: Callable[[Any], None]) -> None:
        self._host = host
        self._accepted = accepted
        self.network.listeners[host] = accepted

    def close(self) -> None:
        if self.network.listeners.get(self._host) == self._accepted:  # otherwise another daemon listens there
            del self.network.listeners[self._host]


class _Egress:
    """Replaces the egress of a link: programs instead of addresses."""

    dialling = False

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._asked: dict[int, asyncio.TimerHandle] = {}

    def request(self, number: int, target: str) -> None:
        delay, act = self._daemon.answer(target)
        self._asked[number] = self._daemon.loop.call_later(delay, self._answer, number, act)

    def _answer(self, number: int, act: Callable[[], Socket | None]) -> None:
        del self._asked[number]
        streams = self._daemon.link.streams
        if (sock := act()) is None:
            streams.on_not_dialled(number, RefusedError("connection refused", Code.TARGET_UNREACHABLE))
        else:
            streams.on_dialled(number, cast("socket.socket", sock))

    def cancel(self, number: int) -> None:
        if (asked := self._asked.pop(number, None)) is not None:
            asked.cancel()

    def close(self) -> None:
        for number in list(self._asked):
            self.cancel(number)


class _NoHangups:
    """Replaces the epoll for hangups: programs here never close while data for them is pending."""

    def add(self, sock: object, told: object) -> None:
        pass

    def remove(self, descriptor: int) -> None:
        pass


@dataclass(frozen=True)
class Shape:
    """The configuration of a host."""

    dials: bool
    settings: Settings
    window: float
    rotate_after: float


Answer = Callable[[str], tuple[float, Callable[[], Socket | None]]]


class Daemon:
    """One run of the daemon of host ``name``, whose only peer is ``peer``."""

    _instances = itertools.count(1)

    def __init__(
        self, network: Network, name: str, peer: str, shape: Shape, answer: Answer, address: str = ""
    ) -> None:
        self.name = name
        self.address = address or name
        self.network = network
        self.loop = network.loop
        self.answer = answer
        self.instance = f"{name} {next(self._instances)}".encode().ljust(16)[:16]
        plan = LinkPlan(
            name,
            peer,
            shape.settings,
            shape.window,
            rotation=RotationPlan(after=shape.rotate_after),
        )
        self.link = link = Link(plan, self.instance)
        link.rotation._clock = self.loop.time
        link.streams._egress = cast("Any", _Egress(self))
        link.streams._hangups = cast("Any", _NoHangups())
        make_lane, contexts = network.make_lane, cast("Any", lambda: None)
        self.stopping: asyncio.Task[None] | None = None
        self.reception = LaneAcceptor(
            self.address, PORT, contexts, None, {peer: link}, make_lane, {peer: "192.0.2.1"}
        )
        self.tasks: list[asyncio.Task[None]] = []
        if shape.dials:
            dialer = Dialer(
                DialPlan(f"{self.address} {peer}", PORT, contexts, None, make_lane=make_lane), link
            )
            self.tasks.append(self.loop.create_task(dialer.run(), name=f"dialer of {name}"))
            self.tasks.append(self.loop.create_task(Rotator(link, dialer).run(), name=f"rotator of {name}"))

    @property
    def lanes(self) -> set[int]:
        return set(self.link.lanes)

    @property
    def settled(self) -> bool:
        """Whether all of its lanes are up, and no rotation or handshake is pending."""
        link = self.link
        return (
            link.session is not None
            and not (link.rotation.others or link.closing_lanes or link.members.offer)
            and all(not lane.ended for lane in link.lanes.values())
        )

    async def stop(self, code: Code = Code.NONE) -> None:
        """Stop regularly, with GOAWAY to the peer."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.reception.close()
        await self.link.close(code, f"{self.name} is stopping")

    def kill(self, number: int) -> None:
        """Stop immediately: connections are reset with error ``number``; 0: without notice to the peer."""
        for connection in self.network.living():
            for bit, end in ((2, connection.near), (1, connection.far)):
                if end.getsockname()[0] == self.address:
                    connection.cut(bit if number else 0, number)
        self.link.end(Code.NONE, f"{self.name} is stopping")
        self.leave()

    def leave(self) -> None:
        """Start to ``stop``; another daemon can listen on the address immediately."""
        self.reception._listener.close()
        self.stopping = self.loop.create_task(self.stop())


@contextmanager
def installed(network: Network) -> Iterator[None]:
    """Replace kernel interfaces of daemons with simulated ones."""
    listener = type("Listener", (_Listener,), {"network": network})
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with ExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        stack.enter_context(patch.object(dialer_module, "connect", network.connect))
        stack.enter_context(patch.object(acceptor_module, "Listener", listener))
        stack.enter_context(patch.object(acceptor_module, "bind_tcp", lambda host, port, absent: host))
        stack.enter_context(patch.object(acceptor_module, "tune_lane", lambda sock, congestion: None))
        yield

"""Lanes for tests: real TCP over loopback, real TLS, and a session at each end.

``MAKERS`` has every lane factory; the conformance suite runs over all pairings of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiled_engine import compiled_engine
from tests.support.driver import TARGET, Host
from tests.support.network import Cable, TlsPeer, cabled_pair, tcp_pair
from tests.support.pki import Pki
from tests.support.waiting import turns, unexpected, until
from tunnel.lanes import lane_factory
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.lane import Lane
from tunnel.lanes.lane_factory import LaneMaker
from tunnel.records.key_schedule import SUITES
from tunnel.tls.contexts import TlsContexts, load
from tunnel.tls.lane_kinds import KernelTlsSupport, LaneKind
from tunnel.wire import negotiation
from tunnel.wire.codec import encode
from tunnel.wire.frames import Hello, Limits, Open, Welcome
from tunnel.wire.session import Settings
from tunnel.wire.states import LaneState


@dataclass(frozen=True, slots=True)
class Hosts:
    """The TLS contexts of two hosts of one authority."""

    a: TlsContexts
    b: TlsContexts

    @classmethod
    def create(cls, directory: Path) -> Hosts:
        """Create an authority and two hosts below ``directory``."""
        pki = Pki(directory)
        return cls(load(pki.host("hosta"), KERNEL), load(pki.host("hostb"), KERNEL))


MAKERS: dict[str, LaneMaker] = {"userspace": lane_factory.userspace}
EMULATED = "EMULATED" in os.environ
if not EMULATED:
    MAKERS["compiled"] = partial(lane_factory.userspace, provider=compiled_engine())
if EMULATED:  # there the kernel has TLS; see test_emulated_kernel
    MAKERS["kernel"] = lane_factory.kernel
KINDS: Mapping[str, LaneKind] = {
    "userspace": LaneKind.USERSPACE,
    "compiled": LaneKind.USERSPACE,
    "kernel": LaneKind.KERNEL,
}
PAIRINGS = tuple(itertools.product(MAKERS, repeat=2))
Kinds = tuple[str, str]
NAMES = ("hosta", "hostb")
DEFAULT = Settings()
KERNEL = KernelTlsSupport(tuple(SUITES), "")
LIMITS = Limits(streams=256, control=1024)

each_pairing = pytest.mark.parametrize("kinds", PAIRINGS, ids="-".join)
each_kind = pytest.mark.parametrize("kind", MAKERS)
each_role = pytest.mark.parametrize("dialing", [True, False], ids=["dialing", "accepting"])


@dataclass
class Pair:
    """Two hosts and the lane between them; ``a`` dialed. ``cable``: between them, if requested."""

    a: Host
    b: Host
    cable: Cable | None = None

    async def opened(self, count: int = 1, *, by: Host | None = None, paused: bool = False) -> list[int]:
        """Open streams, by default from ``a``, and wait until both ends have them."""
        numbers = [(by or self.a).open(paused=paused) for _ in range(count)]
        await until(lambda: self.a.opened.issuperset(numbers) and self.b.opened.issuperset(numbers))
        return numbers

    async def closed(self, numbers: Iterable[int], patience: float = 60) -> None:
        """Wait until these streams have ended at both ends without errors."""
        wanted = set(numbers)

        def done() -> bool:
            return bool(self._trouble()) or (self.a.closed >= wanted and self.b.closed >= wanted)

        await until(done, "for streams to close", patience)
        assert not self._trouble(), self._trouble()

    def _trouble(self) -> list[object]:
        return [*self.a.faults, *self.b.faults, *self.a.ends, *self.b.ends]


@asynccontextmanager
async def joined(
    hosts: Hosts, kinds: Kinds, *, settings: Settings = DEFAULT, cable: bool = False
) -> AsyncIterator[Pair]:
    """Connect two hosts with a session over a lane of the given kinds (dialing, accepting)."""
    middle: Cable | None = None
    if cable:
        dialing, middle, accepting = cabled_pair()
    else:
        dialing, accepting = tcp_pair()
    with dialing, accepting, unexpected() as surprises:
        lane_a, lane_b = await asyncio.gather(
            MAKERS[kinds[0]](dialing, hosts.a, NAMES, LaneState.AWAIT_WELCOME, dialing=True),
            MAKERS[kinds[1]](accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
        )
        pair = Pair(Host(True, settings), Host(False, settings), middle)
        pair.b.own(lane_b)
        pair.a.own(lane_a)
        try:
            await until(lambda: pair.a.ready and pair.b.ready, "for a session")
            yield pair
        finally:
            await gone(lane_a)
            await gone(lane_b)
            if middle is not None:
                await middle.cut()
        assert not (faults := pair.a.faults + pair.b.faults), faults
        assert not surprises, "\n".join(surprises)


@asynccontextmanager
async def against_raw(
    hosts: Hosts, kind: str, *, dialing: bool, greeted: bool = True
) -> AsyncIterator[tuple[Host, TlsPeer]]:
    """Connect a host's lane of ``kind`` with a raw peer; with a session if ``greeted``."""
    ours, theirs = tcp_pair()
    if not dialing:
        ours, theirs = theirs, ours
    state = LaneState.AWAIT_WELCOME if dialing else LaneState.AWAIT_FIRST
    with ours, theirs, unexpected() as surprises:
        lane, peer = await asyncio.gather(
            MAKERS[kind](ours, hosts.a if dialing else hosts.b, NAMES, state, dialing=dialing),
            TlsPeer.connect(theirs, hosts.b if dialing else hosts.a, dialing=not dialing),
        )
        host = Host(dialing)
        host.own(lane)
        try:
            if greeted:
                await _greet(host, peer)
            yield host, peer
        finally:
            await gone(lane)
        assert host.faults == []
        assert not surprises, "\n".join(surprises)


async def gone(lane: Lane) -> None:
    """Abort a lane, and wait until it has closed its socket."""
    lane.abort()
    await asyncio.wait_for(lane.gone.wait(), 20)


async def _greet(host: Host, peer: TlsPeer) -> None:
    """Perform the raw peer's part of HELLO and WELCOME."""
    offer = negotiation.hello(b"R" * 16, b"I" * 16, LIMITS)
    if host.initiator:
        await peer.read_until(lambda: peer.count(Hello))
        offer = next(frame for frame in peer.frames if isinstance(frame, Hello))
        await peer.send(encode(negotiation.welcome(offer, b"J" * 16, LIMITS)))
    else:
        await peer.send(encode(offer))
        await peer.read_until(lambda: peer.count(Welcome))
    await until(lambda: host.ready, "for a session")


# Helpers for tests of lanes.


async def only_end(host: Host) -> Exception:
    """Wait for the lane's end and return its reason; ``on_end`` must be called last, and once."""
    await until(lambda: host.ends, "for the lane to end")
    await turns()
    assert host.calls.count("on_end") == 1
    assert host.calls[-1] == "on_end"
    return host.ends[0]


def fileno(host: Host) -> int:
    """Return the lane's descriptor: -1 once it has closed its socket."""
    return baselane(host.lane)._sock.fileno()


def baselane(lane: Lane) -> BaseLane[Any]:
    """Return the lane as its implementation class."""
    assert isinstance(lane, BaseLane)
    return lane


@contextmanager
def unread_for_now(lane: Lane) -> Iterator[None]:
    """Remove the lane from the event loop meanwhile: data that arrives is read together afterwards."""
    lane.leave()
    yield
    baselane(lane)._start_reading()


@dataclass
class Endless:
    """Unlimited data of a peer: ``left`` bytes, more than a lane reads while it lingers."""

    left: int = 200_000

    def take(self) -> int:
        """Take one byte, if any is left; return how many."""
        count = min(1, self.left)
        self.left -= count
        return count


async def stuffed(host: Host, peer: TlsPeer) -> int:
    """Open a stream with unlimited content to a peer that does not read, until the lane is full."""
    await peer.send(encode(Open(1, 1 << 40, TARGET)))
    await until(lambda: 1 in host.opened)
    host.send(1, 1 << 40)
    await until(lambda: not host.lane.room, "for the lane to be full")
    before = -1
    while host.lane.bytes_sent != before:  # the kernel's buffers still grow for a moment
        before = host.lane.bytes_sent
        await turns(200)
    return host.sources[1].sent


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Two hosts with certificates."""
    return Hosts.create(tmp_path_factory.mktemp("lanes") / "pki")


@pytest.fixture
async def quiet_loop() -> AsyncIterator[None]:
    """Fail the test when a callback of the loop raises: by default that is only logged."""
    with unexpected() as surprises:
        yield
    assert not surprises, "\n".join(surprises)

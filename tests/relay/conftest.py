"""Fixtures shared by the tests of the relay."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.dialing import World
from tests.support.links import Pair, join
from tests.support.namespace import link_local, network
from tests.support.pki import Pki
from tests.support.pumps import Local
from tests.support.targets import ANY, Requester, Target
from tests.support.waiting import unexpected, until
from tunnel.relay.egress import Egress
from tunnel.relay.pump import Pump
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.tls.contexts import load
from tunnel.wire.frames import Limits
from tunnel.wire.session import Settings

__all__ = ["link_local", "network"]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two connected links."""
    joined = await Pair().up()
    yield joined
    joined.close()


@pytest.fixture(
    params=itertools.product(["tcp", "unix"], [Pump, SplicedPump]), ids=lambda p: f"{p[0]} {p[1].__name__}"
)
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Local]:
    """Each kind of pump, with each kind of socket."""
    with unexpected() as surprises:
        made = Local(*request.param)
        yield made
        made.pump.close()
        made.hypervisor.close()
    assert not surprises, "\n".join(surprises)


@pytest.fixture
async def two_lanes() -> AsyncIterator[Pair]:
    """Links with two lanes: 1 and 2."""
    pair = await Pair(settings=Settings(Limits(256, 1024, 2))).up()
    second = join(pair.a, pair.b)
    await until(lambda: second.epoch, "for the second lane")
    yield pair
    pair.close()


@pytest.fixture
def world(tmp: Path) -> World:
    """Certificates, and a port on which nothing listens."""
    pki = Pki(tmp)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    a, b, other = (load(pki.host(name)) for name in ("hosta", "hostb", "hostc"))
    return World(a, b, other, port)


@pytest.fixture
async def link() -> AsyncIterator[Requester]:
    """The handler of an egress."""
    requester = Requester()
    with unexpected() as surprises:
        yield requester
    for sock in requester.dialled.values():
        sock.close()
    assert not surprises, "\n".join(surprises)


@pytest.fixture
async def egress(link: Requester) -> AsyncIterator[Egress]:
    """An egress that may dial any port of this host."""
    made = Egress(ANY, link, "hostb", "hosta")
    yield made
    made.close()
    await until(lambda: not made._tasks, "for the egress to stop dialling")


@pytest.fixture
def target(tmp: Path) -> Iterator[Target]:
    """A socket path that an egress may dial."""
    made = Target(tmp / "qemu")
    yield made
    made.close()

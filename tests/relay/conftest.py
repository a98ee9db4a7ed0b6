"""What the tests of the relay share."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from tests.support.links import Pair
from tests.support.namespace import link_local, network
from tests.support.pumps import Local
from tests.support.waiting import unexpected
from tunnel.relay.pump import Pump
from tunnel.relay.splicedpump import SplicedPump

__all__ = ["link_local", "network"]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two links, joined."""
    joined = await Pair().up()
    yield joined
    joined.close()


@pytest.fixture(
    params=itertools.product(["tcp", "unix"], [Pump, SplicedPump]), ids=lambda p: f"{p[0]} {p[1].__name__}"
)
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Local]:
    """Every kind of pump, with every kind of socket."""
    with unexpected() as surprises:
        made = Local(*request.param)
        yield made
        made.pump.close()
        made.hypervisor.close()
    assert not surprises, "\n".join(surprises)

"""What the tests of lanes share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.lanes import Hosts
from tests.support.namespace import link_local, network
from tests.support.waiting import unexpected

__all__ = ["link_local", "network"]


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Two hosts with certificates."""
    return Hosts.create(tmp_path_factory.mktemp("lanes") / "pki")


@pytest.fixture
async def quiet_loop() -> AsyncIterator[None]:
    """Fail the test when a callback of the loop raises: by itself that is only logged."""
    with unexpected() as surprises:
        yield
    assert not surprises, "\n".join(surprises)

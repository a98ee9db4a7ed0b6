"""What the tests of the relay share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.links import Pair
from tests.support.namespace import link_local, network

__all__ = ["link_local", "network"]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two links, joined."""
    joined = await Pair().up()
    yield joined
    joined.close()

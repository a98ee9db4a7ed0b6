"""What the end-to-end tests share: two hosts, and threads that move bytes beside the test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.namespace import network
from tests.support.streams import Target

__all__ = ["network"]


@pytest.fixture
def hosts(tmp: Path) -> Iterator[TwoHosts]:
    """Two hosts that know each other; not started yet."""
    with TwoHosts(tmp) as pair:
        yield pair


@pytest.fixture
def target() -> Iterator[Target]:
    """Somebody who listens where an egress may dial."""
    with Target() as listening:
        yield listening


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Threads; what runs on them gives up by itself, as all sockets have timeouts."""
    with ThreadPoolExecutor(16) as executor:
        yield executor

"""Fixtures of the end-to-end tests: two hosts, and threads that transfer bytes in the background."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.namespace import network
from tests.support.streams import Target

__all__ = ["network"]


WITH_WORKERS = {
    "test_guests_cross",
    "test_half_closed_streams_still_carry",
    "test_lost_lane_is_replaced",
    "test_signals_end_the_daemon_in_order",
    "test_stalled_streams_stall_nobody",
    "test_streams_of_a_target_arrive_in_order",
    "test_targets_outside_the_allow_list_are_refused",
}
"""Modules tested with one worker and with three; ``--workers N`` applies to all end-to-end tests."""

WITH_THREE = {"test_trust_ends_with_certificates"}
"""Modules tested with three workers only: slow ones. Three cover the primary session, which hosts with one
worker have as well, and an additional one."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize ``workers`` for the modules above."""
    module = metafunc.module.__name__.rpartition(".")[2]
    given = metafunc.config.getoption("--workers") is not None
    if "workers" not in metafunc.fixturenames or given:
        return
    if module in WITH_WORKERS:
        metafunc.parametrize("workers", [1, 3], ids=["one worker", "three workers"])
    elif module in WITH_THREE:
        metafunc.parametrize("workers", [3], ids=["three workers"])


@pytest.fixture
def workers() -> int | None:
    """The number of workers of the daemons of ``hosts``; None: from ``--workers``, or one."""
    return None


@pytest.fixture
def hosts(tmp: Path, workers: int | None) -> Iterator[TwoHosts]:
    """Two hosts, configured as peers; not started yet."""
    with TwoHosts(tmp) as pair:
        if workers is not None:
            pair.a.workers = pair.b.workers = workers
        yield pair


@pytest.fixture
def target() -> Iterator[Target]:
    """A listener that an egress may connect to."""
    with Target() as listening:
        yield listening


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """A thread pool; its tasks always end, as all sockets have timeouts."""
    with ThreadPoolExecutor(16) as executor:
        yield executor

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


WITH_WORKERS = {
    "test_guests_cross",
    "test_half_closed_streams_still_carry",
    "test_lost_lane_is_replaced",
    "test_signals_end_the_daemon_in_order",
    "test_stalled_streams_stall_nobody",
    "test_streams_of_a_target_arrive_in_order",
    "test_targets_outside_the_allow_list_are_refused",
}
"""What is tested with one worker and with three; ``--workers N`` does so with all end-to-end tests."""

WITH_THREE = {"test_trust_ends_with_certificates"}
"""What is tested with three alone: it waits long, and what it asserts is about the standing session, which
hosts with one worker have as well, and about a further one."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let ``hosts`` have one worker and three where that is worth its time."""
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
    """How many the daemons of ``hosts`` have; None: as ``--workers`` says, or one."""
    return None


@pytest.fixture
def hosts(tmp: Path, workers: int | None) -> Iterator[TwoHosts]:
    """Two hosts that know each other; not started yet."""
    with TwoHosts(tmp) as pair:
        if workers is not None:
            pair.a.workers = pair.b.workers = workers
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

"""The load of workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.clock import Clock
from tests.support.links import Pair
from tunnel.relay.worker_load import BUSY, EXPECTED, IDLE, PERIOD, YOUNG, WorkerLoad
from tunnel.relay.workers import Worker


@pytest.fixture
def clock() -> Clock:
    """The clock of ``busyness`` and of the streams."""
    return Clock()


@pytest.fixture
def busyness(clock: Clock) -> WorkerLoad:
    """The object under test."""
    return WorkerLoad(clock)


async def test_load_of_a_stream_depends_on_its_rate(busyness: WorkerLoad, clock: Clock) -> None:
    pair = await Pair().up()
    await pair.stream()
    worker = Worker(0)
    worker.links[pair.a] = None
    (pump,) = pair.a.streams.pumps.values()
    pump.since = clock.now
    assert busyness.of(worker) == 1.0, "new: counts as busy"
    clock.now += YOUNG
    assert busyness.of(worker) == IDLE
    pump.bytes_read += BUSY
    clock.now += PERIOD
    assert busyness.of(worker) == 1.0
    clock.now += PERIOD / 2
    assert busyness.of(worker) == 1.0, "too soon for another measurement"
    clock.now += PERIOD / 2
    assert busyness.of(worker) == IDLE
    pump.bytes_written += BUSY
    clock.now += 2 * PERIOD
    assert busyness.of(worker) == IDLE, "half as fast"
    pair.close()


async def test_new_session_counts_before_it_has_a_stream(busyness: WorkerLoad) -> None:
    pair = await Pair().up()
    worker = Worker(0)
    worker.links[pair.a] = None
    assert busyness.of(worker) == 0.0
    pair.a.plan = replace(pair.a.plan, number=1)
    assert busyness.of(worker) == EXPECTED
    pair.close()


async def test_least_loaded_worker(busyness: WorkerLoad) -> None:
    """Among equals the first that is not the daemon's own loop."""
    workers = [Worker(number) for number in range(3)]
    assert busyness.least(workers) is workers[1]
    pair = await Pair().up()
    await pair.stream()
    workers[1].links[pair.a] = None
    assert busyness.least(workers) is workers[2]
    workers[2].links[pair.a] = None
    assert busyness.least(workers) is workers[0]
    pair.close()

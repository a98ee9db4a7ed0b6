"""How much a worker has to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.clock import Clock
from tests.support.links import Pair
from tunnel.relay.worker_load import BUSY, EXPECTED, IDLE, PERIOD, YOUNG, WorkerLoad
from tunnel.relay.workers import Worker


@pytest.fixture
def clock() -> Clock:
    """The time of ``busyness``, and of the streams."""
    return Clock()


@pytest.fixture
def busyness(clock: Clock) -> WorkerLoad:
    """What is tested."""
    return WorkerLoad(clock)


async def test_a_stream_counts_by_what_it_moves(busyness: WorkerLoad, clock: Clock) -> None:
    pair = await Pair().up()
    await pair.stream()
    worker = Worker(0)
    worker.links[pair.a] = None
    (pump,) = pair.a.streams.pumps.values()
    pump.since = clock.now
    assert busyness.of(worker) == 1.0, "it is new: who knows"
    clock.now += YOUNG
    assert busyness.of(worker) == IDLE
    pump.bytes_read += BUSY
    clock.now += PERIOD
    assert busyness.of(worker) == 1.0
    clock.now += PERIOD / 2
    assert busyness.of(worker) == 1.0, "too soon for another judgement"
    clock.now += PERIOD / 2
    assert busyness.of(worker) == IDLE
    pump.bytes_written += BUSY
    clock.now += 2 * PERIOD
    assert busyness.of(worker) == IDLE, "half as fast"
    pair.close()


async def test_a_session_that_was_begun_for_a_stream_counts_before_it_has_it(busyness: WorkerLoad) -> None:
    pair = await Pair().up()
    worker = Worker(0)
    worker.links[pair.a] = None
    assert busyness.of(worker) == 0.0
    pair.a.plan = replace(pair.a.plan, number=1)
    assert busyness.of(worker) == EXPECTED
    pair.close()


async def test_who_has_least_to_do(busyness: WorkerLoad) -> None:
    """Of equals not the daemon's own loop, and else the first."""
    workers = [Worker(number) for number in range(3)]
    assert busyness.least(workers) is workers[1]
    pair = await Pair().up()
    await pair.stream()
    workers[1].links[pair.a] = None
    assert busyness.least(workers) is workers[2]
    workers[2].links[pair.a] = None
    assert busyness.least(workers) is workers[0]
    pair.close()

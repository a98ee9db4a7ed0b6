"""Many real guests with many multifd channels each, simultaneously over one link: all arrive intact."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tunnel.proof.pattern_guest import Workload
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.move_options import MoveOptions

pytestmark = [pytest.mark.slow]

MEMORY = 64 * MIB
UNLIMITED = 1 << 40


class Together:
    """A barrier for ``count`` migrations: throttles them until all have started."""

    def __init__(self, count: int) -> None:
        self._missing = set(range(count))
        self._all = asyncio.Event()

    async def move(self, number: int, trial: Trial, way: tuple[str, str], channels: int) -> None:
        """Migrate one guest; it is throttled until all have started."""
        slowly = MoveOptions(parallel=channels, bandwidth=MIB // 2)
        moving = asyncio.create_task(trial.migrate(*way, slowly, lambda _: self._begun(number)))
        waiting = asyncio.create_task(self._all.wait())
        await asyncio.wait({moving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not moving.done():
            await trial.source.monitor.execute("migrate-set-parameters", {"max-bandwidth": UNLIMITED})
        waiting.cancel()
        await moving
        assert not self._missing, "it has arrived before the others started"

    def _begun(self, number: int) -> None:
        self._missing.discard(number)
        if not self._missing:
            self._all.set()


@pytest.mark.parametrize(
    ("guests", "channels"),
    [(4, 4), pytest.param(16, 16, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
async def test_guests_that_overlap_all_arrive(hosts: TwoHosts, tmp: Path, guests: int, channels: int) -> None:
    ways = []
    for number in range(guests):
        (tmp / str(number)).mkdir()
        listen = f"unix:{tmp}/{number}/arrival"
        ways.append((hosts.a.leads_to(hosts.b, listen, f"unix:{tmp}/{number}/entry"), listen))
    hosts.start()
    together = Together(guests)
    async with AsyncExitStack() as stack:
        trials = []
        for number in range(guests):
            trial = await Trial.start(tmp / str(number), MEMORY, Workload())
            trials.append(await stack.enter_async_context(trial))
        async with asyncio.TaskGroup() as moves:
            for number, (trial, way) in enumerate(zip(trials, ways, strict=True)):
                moves.create_task(together.move(number, trial, way, channels))
        for trial in trials:
            await trial.verify()
    assert hosts.a.link(hosts.b)["streams_opened"] == guests * (1 + channels)
    told = {each["what"] for each in hosts.a.link(hosts.b)["incidents"] + hosts.b.link(hosts.a)["incidents"]}
    trouble = {"connection refused", "stream limit reached", "stream refused", "link down", "lane lost"}
    assert not told & trouble

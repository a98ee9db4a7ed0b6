"""One caller per loop iteration, with other work in between."""

from __future__ import annotations

import asyncio

from tests.support.waiting import turns, until
from tunnel.net.iterations import own_iteration


async def test_each_caller_has_its_own_iteration_with_other_work_in_between() -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        await own_iteration()
        order.append(name)

    def other() -> None:
        order.append("other")
        if order.count("other") < 20:
            asyncio.get_running_loop().call_soon(other)

    async with asyncio.TaskGroup() as tasks:
        for name in "abcd":
            tasks.create_task(work(name))
        asyncio.get_running_loop().call_soon(other)
    await until(lambda: order.count("other") == 20)
    names = [each for each in order if each != "other"]
    assert names == list("dcba"), "last come, first served"
    for one, next_one in zip("dcb", "cba", strict=True):
        assert "other" in order[order.index(one) : order.index(next_one)]


async def test_cancelled_callers_are_skipped() -> None:
    three, two, one = (asyncio.create_task(own_iteration()) for _ in range(3))
    await asyncio.sleep(0)
    one.cancel()
    two.cancel()
    await asyncio.wait_for(three, 60)
    await turns()
    await asyncio.wait_for(own_iteration(), 60)

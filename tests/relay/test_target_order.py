"""Order of the streams to one target."""

from __future__ import annotations

import asyncio

from tests.support.waiting import turns
from tunnel.relay.target_order import TargetOrder


class Callers:
    """Requests, in the order of their turns."""

    def __init__(self) -> None:
        self.order = TargetOrder()
        self.led: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.answered: dict[str, asyncio.Event] = {}

    async def come(self, name: str, target: str = "x") -> None:
        self.answered[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._lead(name, target))
        await turns()

    async def _lead(self, name: str, target: str) -> None:
        release = await self.order.turn(target)
        self.led.append(name)
        await self.answered[name].wait()
        release()
        release()  # idempotent

    async def answer(self, name: str) -> None:
        self.answered[name].set()
        await self.tasks[name]
        await turns()


async def test_first_come_first_served() -> None:
    callers = Callers()
    for name in "abc":
        await callers.come(name)
    assert callers.led == ["a"]
    await callers.answer("a")
    assert callers.led == ["a", "b"]
    await callers.come("d")
    for name in "bcd":
        await callers.answer(name)
    assert callers.led == ["a", "b", "c", "d"]
    assert not callers.order.taken("x")


async def test_another_target_does_not_wait() -> None:
    callers = Callers()
    await callers.come("a", "x")
    await callers.come("b", "y")
    assert callers.led == ["a", "b"]
    assert callers.order.taken("x")
    for name in "ab":
        await callers.answer(name)


async def test_cancelled_waiter_blocks_no_other() -> None:
    callers = Callers()
    for name in "abc":
        await callers.come(name)
    callers.tasks["b"].cancel()
    await turns()
    await callers.answer("a")
    assert callers.led == ["a", "c"]
    await callers.answer("c")
    assert not callers.order.taken("x")


async def test_request_cancelled_in_its_turn_passes_it_on() -> None:
    callers = Callers()
    for name in "abc":
        await callers.come(name)
    callers.answered["a"].set()
    await asyncio.sleep(0)  # a is cancelled, and b gets its turn
    callers.tasks["b"].cancel()
    await turns()
    assert callers.led == ["a", "c"]
    await callers.answer("c")
    assert not callers.order.taken("x")


async def test_streams_of_one_session_are_requested_concurrently() -> None:
    """A stream of another session waits for all of them."""
    order, led = TargetOrder(), list[str]()
    first, second = order.join("x"), order.join("x")
    assert order.taken("x")
    assert not order.awaited("x")

    async def come() -> None:
        release = await order.turn("x")
        led.append("third")
        release()

    third = asyncio.create_task(come())
    await turns()
    assert order.awaited("x")
    second()
    second()
    await turns()
    assert not led
    first()
    await third
    assert not order.taken("x")

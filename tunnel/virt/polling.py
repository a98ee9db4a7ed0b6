"""Polling, for conditions without an event: QEMU's run states, values in a guest's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(probe: Callable[[], Awaitable[T | None]], *, within: float, every: float) -> T:
    """Call ``probe`` every ``every`` seconds until it returns something other than None, and return that.

    Raises TimeoutError after ``within`` seconds, and propagates exceptions of ``probe``.
    """
    async with asyncio.timeout(within):
        while True:
            answer = await probe()
            if answer is not None:
                return answer
            await asyncio.sleep(every)

"""Waiting for what nothing announces: QEMU's run states, and words in a guest's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(probe: Callable[[], Awaitable[T | None]], *, within: float, every: float) -> T:
    """Call ``probe`` every ``every`` seconds until it answers something other than None, and return that.

    Raises TimeoutError after ``within`` seconds; what ``probe`` raises comes through.
    """
    async with asyncio.timeout(within):
        while True:
            answer = await probe()
            if answer is not None:
                return answer
            await asyncio.sleep(every)

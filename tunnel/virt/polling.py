"""Polling, for conditions without an event: QEMU's run states, values in a guest's memory.

``tunnel.bench.lab.waiting.until`` is the blocking form, with the same arguments.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def until(
    found: Callable[[], Awaitable[T | None]], what: str = "", *, within: float, every: float = 0.02
) -> T: ...


@overload
async def until(
    found: Callable[[], object], what: str = "", *, within: float, every: float = 0.02
) -> object: ...


async def until(found: Callable[[], object], what: str = "", *, within: float, every: float = 0.02) -> object:
    """Call ``found`` every ``every`` seconds until it returns, or its awaitable, a true value; return that.

    Raises TimeoutError, with ``what`` ("for ...") in it, after ``within`` seconds; propagates exceptions of
    ``found``.
    """
    try:
        async with asyncio.timeout(within) as limit:
            while True:
                result = found()
                if inspect.isawaitable(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(every)
    except TimeoutError:
        if not limit.expired():  # an exception of ``found``
            raise
        raise TimeoutError(timed_out(within, what)) from None


def timed_out(within: float, what: str) -> str:
    """Return the error message of an ``until``."""
    return f"timed out after {within:g} s waiting {what}".rstrip()

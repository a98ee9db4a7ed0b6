"""Spread work of unbounded amount over loop iterations, one piece each: other work runs in between."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_Waiting = list[asyncio.Future[None]]

_waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = WeakKeyDictionary()


async def own_iteration() -> None:
    """Return in a loop iteration in which no other caller of this function returns.

    Last come, first served: under overload, a FIFO queue would make every caller late.
    """
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, [])
    if not waiting:
        loop.call_soon(_wake, loop, waiting)
    mine = loop.create_future()
    waiting.append(mine)
    await mine


def _wake(loop: asyncio.AbstractEventLoop, waiting: _Waiting) -> None:
    """Wake the last waiter that was not cancelled; the next one an iteration later."""
    while waiting:
        future = waiting.pop()
        if not future.done():
            future.set_result(None)
            break
    if waiting:
        loop.call_soon(_wake, loop, waiting)

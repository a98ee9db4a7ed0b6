"""Work of which any amount may come at once, one piece an iteration of the loop: other work comes between."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

_Waiting = list[asyncio.Future[None]]

_waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = WeakKeyDictionary()


async def own_iteration() -> None:
    """Return in an iteration of the loop in which no other caller of this does.

    Last come, first served: where there is more to do than time, waiting in line would make everybody late.
    """
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, [])
    if not waiting:
        loop.call_soon(_wake, loop, waiting)
    mine = loop.create_future()
    waiting.append(mine)
    await mine


def _wake(loop: asyncio.AbstractEventLoop, waiting: _Waiting) -> None:
    """Let the last go on that was not cancelled; the next one an iteration later."""
    while waiting:
        future = waiting.pop()
        if not future.done():
            future.set_result(None)
            break
    if waiting:
        loop.call_soon(_wake, loop, waiting)

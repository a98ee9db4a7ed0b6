"""From one thread's loop to another's: whatever a loop owns is called in that loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial


def post(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *args: object) -> None:
    """Call ``act`` in ``loop``: now if that is the one which runs, else soon, unless it has ended."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        act(*args)
        return
    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(partial(act, *args))

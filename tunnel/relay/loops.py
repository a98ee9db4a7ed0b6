"""Calls between the event loops of threads: what a loop owns is called in that loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial


def post(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *args: object) -> None:
    """Call ``act`` in ``loop``: now if it is the running one, else soon, or never if it is closed."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        act(*args)
        return
    with suppress(RuntimeError):  # closed
        loop.call_soon_threadsafe(partial(act, *args))

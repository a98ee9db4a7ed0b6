"""Waiting with a timeout, and collecting unexpected exceptions."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tunnel.virt import polling

PATIENCE = 60.0
"""Timeout in seconds for anything that should take milliseconds."""

_PAUSE = 0.002


async def until(found: Callable[[], object], what: str = "", within: float = PATIENCE) -> None:
    """Return when ``found()`` is true. Raises TimeoutError, with ``what`` in it, on timeout."""
    await polling.until(found, what, within=within, every=_PAUSE)


async def turns(count: int = 20) -> None:
    """Run ``count`` loop iterations: all pending callbacks and their consequences."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def unexpected() -> Iterator[list[str]]:
    """Collect uncaught exceptions that are reported to the loop's exception handler."""
    found: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: found.append(_readable(context)))
    try:
        yield found
    finally:
        loop.set_exception_handler(before)


def _readable(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return "".join([context["message"], "\n", *traceback.format_exception(error)])

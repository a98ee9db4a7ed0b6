"""Waiting for what a test expects, never for ever, and noticing what it does not expect."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 60.0
"""Seconds after which something that should happen within milliseconds counts as never."""

_PAUSE = 0.002


async def until(condition: Callable[[], object], what: str = "", patience: float = PATIENCE) -> None:
    """Return when ``condition()`` holds. AssertionError, with ``what`` in it, when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not condition():
        assert loop.time() < deadline, f"waited {patience:g} seconds in vain {what}"
        await asyncio.sleep(_PAUSE)


async def turns(count: int = 20) -> None:
    """Let the loop do everything that is due already, and what follows from it."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def unexpected() -> Iterator[list[str]]:
    """Collect what the loop's exception handler is told: exceptions that nobody caught."""
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

"""Turns for the streams to one target: the next is asked for when the one before was answered.

Streams of one session are dialled in the order of their OPENs; between two sessions there is no order. QEMU's
multifd channels must not overtake the main one, whichever session has it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

Release = Callable[[], None]
"""Ends a turn. Calling it again changes nothing."""


class TargetOrder:
    """Who may ask for a stream to a target, first come, first served."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # of targets that are somebody's turn

    def taken(self, target: str) -> bool:
        """Whether it is somebody's turn."""
        return target in self._waiting

    async def turn(self, target: str) -> Release:
        """Wait for those who came before; what to call once the stream was answered, or came to nothing."""
        if (waiting := self._waiting.get(target)) is None:
            self._waiting[target] = deque()
        else:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting.append(mine)
            try:
                await mine
            except asyncio.CancelledError:
                if not mine.cancelled():  # it had come just now
                    self._next(target)
                raise
        return _once(partial(self._next, target))

    def _next(self, target: str) -> None:
        waiting = self._waiting[target]
        while waiting:
            first = waiting.popleft()
            if not first.done():
                first.set_result(None)
                return
        del self._waiting[target]


def _once(act: Callable[[], None]) -> Release:
    left = [act]

    def release() -> None:
        if left:
            left.pop()()

    return release

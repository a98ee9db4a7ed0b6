"""Turns for the streams to one target: the next is asked for when the one before was answered.

Streams of one session are dialled in the order of their OPENs; between two sessions there is no order. QEMU's
multifd channels must not overtake the main one, whichever session has it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

Release = Callable[[], None]
"""Ends a turn. Calling it again changes nothing."""


@dataclass(slots=True)
class _Queue:
    """Those to one target: how many are asked for and not answered, and who waits for that."""

    asked: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class TargetOrder:
    """Who may ask for a stream to a target, first come, first served."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def awaited(self, target: str) -> bool:
        """Whether somebody waits for a turn."""
        return target in self._queues and bool(self._queues[target].waiting)

    def taken(self, target: str) -> bool:
        """Whether a stream is asked for, and not answered."""
        return target in self._queues

    def join(self, target: str) -> Release:
        """Ask beside those who ask already: for streams of one session, which keeps their order itself."""
        self._queues.setdefault(target, _Queue()).asked += 1
        return _once(partial(self._answered, target))

    async def turn(self, target: str) -> Release:
        """Wait for all who came before; what to call once the stream was answered, or came to nothing."""
        if target not in self._queues:
            return self.join(target)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[target].waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # its turn had come just now
                self._answered(target)
            raise
        return _once(partial(self._answered, target))

    def _answered(self, target: str) -> None:
        queue = self._queues[target]
        queue.asked -= 1
        while not queue.asked and queue.waiting:
            first = queue.waiting.popleft()
            if not first.done():
                first.set_result(None)
                queue.asked += 1
        if not queue.asked:
            del self._queues[target]


def _once(act: Callable[[], None]) -> Release:
    left = [act]

    def release() -> None:
        if left:
            left.pop()()

    return release

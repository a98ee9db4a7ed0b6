"""Serialise the streams to one target: each is requested after the one before was answered.

Streams of one session are dialled in the order of their OPENs, but there is no order between sessions. QEMU's
multifd channels must not overtake the main channel, whichever session carries it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

Release = Callable[[], None]
"""Ends a turn. Idempotent."""


@dataclass(slots=True)
class _Queue:
    """Streams to one target: the number of unanswered requests, and the waiters."""

    asked: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class TargetOrder:
    """Per-target FIFO of stream requests."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def awaited(self, target: str) -> bool:
        """Whether a request is waiting for its turn."""
        return target in self._queues and bool(self._queues[target].waiting)

    def taken(self, target: str) -> bool:
        """Whether a request is unanswered."""
        return target in self._queues

    def join(self, target: str) -> Release:
        """Start a request without waiting: for streams of one session, which preserves their order."""
        self._queues.setdefault(target, _Queue()).asked += 1
        return _once(partial(self._answered, target))

    async def turn(self, target: str) -> Release:
        """Wait for all earlier requests. Return what to call once the stream is answered or has failed."""
        if target not in self._queues:
            return self.join(target)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[target].waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # its turn has just come
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

"""The streams that have something to send: those that may, in their order, and those that are blocked.

A stream waits for credit of its own or, where our memory is the limit, for credit of any stream. The two are
separate: however many stalled streams there are, credit for another one costs nothing for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunnel.wire.codes import MAX_DATA
from tunnel.wire.retention import SLIVER, Retention
from tunnel.wire.scheduler import Scheduler
from tunnel.wire.stream import KEPT_COST, Stream


class SendQueue:
    """Selects the stream that sends next. ``streams`` are those of the session; ``memory`` is bytes."""

    def __init__(self, memory: int, streams: Mapping[int, Stream]) -> None:
        self.retention = Retention(memory)
        self.scheduler = Scheduler()
        self._streams = streams
        self._blocked: set[int] = set()  # have something to send, and wait for credit of their own
        # Those that wait for memory: True for those that may use its reserve.
        self._starved: dict[bool, set[int]] = {True: set(), False: set()}

    def allot(self, memory: int) -> None:
        """Set the memory to ``memory`` bytes."""
        self.retention.memory = memory
        self._feed()

    def waits(self, number: int) -> bool:
        """Whether ``number`` has something to send, and is blocked."""
        return any(number in waiting for waiting in (self._blocked, *self._starved.values()))

    def ready(self, stream: Stream) -> None:
        """Add ``stream``, which has something to send."""
        if self.retention.offer(stream) > 0:
            self.scheduler.ready(stream.number)
        else:
            self._block(stream)

    def idle(self, number: int) -> None:
        """Remove ``number``, which has nothing to send for now."""
        self.scheduler.idle(number)
        self._stop_waiting(number)

    def pick(self, most: int = MAX_DATA) -> tuple[int, int] | None:
        """Return the stream that sends next, and how many bytes it may send now: 1 to ``most``."""
        scheduler = self.scheduler
        while (number := scheduler.next()) is not None:
            stream = self._streams[number]
            if (allowance := self.retention.offer(stream, most)) > 0:
                return number, scheduler.share(number, allowance)
            self._block(stream)
            scheduler.idle(number)
        return None

    def sent(self, stream: Stream, length: int, frames: int = 1) -> bool:
        """Account for ``length`` bytes of ``stream``, in ``frames``; return whether to request credit."""
        self.retention.keep(stream, length, frames)
        self.scheduler.sent(stream.number, length)
        return not stream.asking and self.retention.short(stream)

    def released(self, stream: Stream, count: int, frames: int) -> None:
        """Account for credit of ``stream``: ``count`` bytes in ``frames`` are no longer kept."""
        self.retention.release(stream, count, frames)
        if self.waits(stream.number):
            self._retry((stream.number,))
        self._feed()

    def forget(self, stream: Stream) -> None:
        """Drop ``stream``, which is closed."""
        self.scheduler.forget(stream.number)
        self._stop_waiting(stream.number)
        self.retention.forget(stream)
        self._feed()

    def retry(self) -> None:
        """Check all blocked streams: the peer's positions may have unblocked any."""
        self._retry(self._blocked.union(*self._starved.values()))

    def _block(self, stream: Stream) -> None:
        starves = self.retention.starves(stream)
        waiting = self._starved[stream.out.carried] if starves else self._blocked
        waiting.add(stream.number)

    def _stop_waiting(self, number: int) -> None:
        for waiting in (self._blocked, *self._starved.values()):
            waiting.discard(number)

    def _feed(self) -> None:
        """Unblock streams that wait for memory, if some is free."""
        for carried, waiting in self._starved.items():
            if waiting and self.retention.free(carried=carried) > KEPT_COST + SLIVER:
                self._retry(tuple(waiting))

    def _retry(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._stop_waiting(number)
            self.ready(self._streams[number])

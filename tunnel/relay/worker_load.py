"""The load of a worker: its streams with recent traffic, and those too new to judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from tunnel.relay.link import Link
from tunnel.relay.pump import Pump
from tunnel.relay.workers import Worker
from tunnel.units import MIB

PERIOD = 1.0
"""Seconds over which bytes are counted."""

BUSY = MIB
"""Bytes per period: a stream with less counts as idle."""

YOUNG = 2.0
"""Seconds for which a new stream counts as busy: all channels of a migration connect before any data."""

IDLE = 1 / 16
"""Load of an idle stream; that of a busy one is 1."""

EXPECTED = 0.5
"""Least load of an additional session, which was begun for a stream to come."""


class WorkerLoad:
    """Estimates load from counters of other threads, which only grow. ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked: WeakKeyDictionary[Pump, tuple[float, int, bool]] = WeakKeyDictionary()

    def of(self, worker: Worker) -> float:
        """Return the load of ``worker``: about the number of its streams with bulk traffic."""
        return sum(map(self._of_link, list(worker.links)))

    def _of_link(self, link: Link) -> float:
        streams = sum(map(self._of_stream, list(link.streams.pumps.values())))
        return max(streams, EXPECTED if link.plan.number else 0.0)

    def _of_stream(self, pump: Pump) -> float:
        now, moved = self._clock(), pump.bytes_read + pump.bytes_written
        since, before, busy = self._looked.setdefault(pump, (now, moved, True))
        if now - since >= PERIOD:
            busy = moved - before >= BUSY * (now - since) / PERIOD
            self._looked[pump] = now, moved, busy
        young = now - pump.since < YOUNG
        return 1.0 if busy or young else IDLE

    def least(self, workers: Iterable[Worker]) -> Worker:
        """Return the least loaded worker; of several the first other than the daemon's own loop."""
        return min(workers, key=lambda worker: (self.of(worker), worker.number == 0, worker.number))

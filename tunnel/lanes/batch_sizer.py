"""The size of a batch for a lane: about a millisecond of link time.

A larger batch would delay sparse streams behind bulk, a smaller one would cost needless calls. So the batch
follows the rate at which the link drains a full socket, and grows again whenever the socket takes everything:
then the link is not the bottleneck, and its rate is unknown.

Between two times that a socket is full, it has drained what it took in between, however small the pieces.
A rate measured from the first send of a small batch would keep batches small forever.
"""

from __future__ import annotations

from collections import deque

from tunnel.units import KIB, MIB

LARGEST = MIB
SMALLEST = 16 * KIB
LINK_TIME = 0.001
"""Seconds that one batch may occupy the link. A socket that took everything and then was idle for as long may
have drained completely."""

WINDOW = 0.02
"""Seconds of one measurement. If it has no result and the socket is not full, the batch doubles."""

_MEMORY = 16
"""Measurements of which the highest counts: a peer that was not scheduled for a moment is not a slow link."""


class BatchSizer:
    """Derives the batch size from every ``send``. Times are seconds, rates bytes per second."""

    def __init__(self) -> None:
        self.batch = LARGEST
        self.rate = 0.0
        self._rates: deque[float] = deque(maxlen=_MEMORY)
        self._window = 0.0  # start of this measurement
        self._drained = 0  # bytes in this measurement, from one full socket to the next
        self._draining = 0.0  # seconds that this took
        self._full_at: float | None = None  # when the socket was last full, None if it may have drained since
        self._taken = 0  # bytes since then
        self._congested = False  # at the last call
        self._last = 0.0

    def sent(self, count: int, now: float, *, congested: bool) -> None:
        """Record that the socket took ``count`` bytes, and is full if ``congested``."""
        if not self._congested and now - self._last > LINK_TIME:
            self._full_at = None
        self._taken += count
        if congested:
            self._refuse(now)
        self._congested, self._last = congested, now
        if now - self._window >= WINDOW:
            self._conclude(now)

    def _refuse(self, now: float) -> None:
        if self._full_at is not None:
            self._drained += self._taken
            self._draining += now - self._full_at
        self._full_at, self._taken = now, 0

    def _conclude(self, now: float) -> None:
        if self._drained and self._draining > 0:
            self._learn(self._drained / self._draining)
        elif not self._congested:
            self.batch = min(LARGEST, self.batch * 2)
        self._window, self._drained, self._draining = now, 0, 0.0

    def _learn(self, rate: float) -> None:
        self._rates.append(rate)
        self.rate = max(self._rates)
        self.batch = int(min(LARGEST, max(SMALLEST, self.rate * LINK_TIME)))

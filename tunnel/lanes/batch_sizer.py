"""How much a lane should be handed at once: about a millisecond of link time.

More would make a sparse stream wait behind bulk, less would cost calls for nothing. So the batch follows the
rate at which the link drains a full socket, and grows back whenever the socket takes all it is offered: then
the link is not the bottleneck, and says nothing about its rate.

A socket that was full and is full again has drained what it took in between, however small the pieces were.
Were the rate taken from what it first takes of a small batch, small batches would make it small for ever.
"""

from __future__ import annotations

from collections import deque

from tunnel.units import KIB, MIB

LARGEST = MIB
SMALLEST = 16 * KIB
LINK_TIME = 0.001
"""Seconds that one batch may occupy the link. A socket that took all, and is offered no more for as long, may
have been drained before."""

WINDOW = 0.02
"""Seconds that one measurement takes. If it found nothing, and the socket is not full, the batch doubles."""

_MEMORY = 16
"""Measurements of which the best counts: a peer that had no processor for a moment is no slower link."""


class BatchSizer:
    """Told of every ``send``. Times are seconds, rates bytes per second."""

    def __init__(self) -> None:
        self.batch = LARGEST
        self.rate = 0.0
        self._rates: deque[float] = deque(maxlen=_MEMORY)
        self._window = 0.0  # when this measurement began
        self._drained = 0  # bytes, in this measurement, from one full socket to the next
        self._draining = 0.0  # seconds that this took
        self._full_at: float | None = None  # when the socket was last full, if it has not run dry since
        self._taken = 0  # since then
        self._congested = False  # the last time
        self._last = 0.0

    def sent(self, count: int, now: float, *, congested: bool) -> None:
        """The socket took ``count`` bytes, and no more for now if ``congested``."""
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

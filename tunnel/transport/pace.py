"""How fast a lane is, and so how much it should be handed at once."""

from __future__ import annotations

from tunnel.wire.codes import KIB, MIB

LARGEST = MIB
SMALLEST = 16 * KIB
LINK_TIME = 0.001
"""Seconds that one batch may occupy the link: what a sparse stream may have to wait for."""

WINDOW = 0.02
"""Seconds over which the rate is measured."""

_WEIGHT = 0.25


class Pace:
    """The rate counts only when the lane was congested: otherwise the source is slow, not the link."""

    def __init__(self) -> None:
        self.batch = LARGEST
        self.rate = 0.0  # bytes per second
        self._started = 0.0
        self._bytes = 0
        self._congested = False

    def sent(self, count: int, now: float, *, congested: bool) -> None:
        """The socket took ``count`` bytes, and no more for now if ``congested``. ``now`` in seconds."""
        self._bytes += count
        self._congested |= congested
        if (elapsed := now - self._started) >= WINDOW:
            if self._congested and elapsed < 10 * WINDOW:
                self._learn(self._bytes / elapsed)
            self._started, self._bytes, self._congested = now, 0, False

    def _learn(self, rate: float) -> None:
        self.rate += (rate - self.rate) * (_WEIGHT if self.rate else 1.0)
        self.batch = int(min(LARGEST, max(SMALLEST, self.rate * LINK_TIME)))

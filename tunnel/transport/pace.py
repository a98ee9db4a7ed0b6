"""How much a lane should be handed at once: about a millisecond of link time.

More would make a sparse stream wait behind bulk, less would cost calls for nothing. So the batch follows the
rate at which the link drains a full socket, and grows back whenever the socket takes all it is offered: then
the link is not the bottleneck, and says nothing about its rate.
"""

from __future__ import annotations

from collections import deque

from tunnel.wire.codes import KIB, MIB

LARGEST = MIB
SMALLEST = 16 * KIB
LINK_TIME = 0.001
"""Seconds that one batch may occupy the link."""

WINDOW = 0.02
"""Seconds of congestion that one measurement takes at most, and without it until the batch doubles."""

_MEMORY = 16
"""Measurements of which the best counts: a peer that had no processor for a moment is no slower link."""


class Pace:
    """Told of every ``send``. Times are seconds, rates bytes per second."""

    def __init__(self) -> None:
        self.batch = LARGEST
        self.rate = 0.0
        self._rates: deque[float] = deque(maxlen=_MEMORY)
        self._congested = False
        self._since = 0.0
        self._drained = 0

    def sent(self, count: int, now: float, *, congested: bool) -> None:
        """The socket took ``count`` bytes, and no more for now if ``congested``."""
        if self._congested:
            self._drained += count
            if not congested or now - self._since >= WINDOW:
                self._learn(now - self._since)
                self._restart(now, congested)
        elif congested or now - self._since >= WINDOW:
            if not congested:
                self.batch = min(LARGEST, self.batch * 2)
            self._restart(now, congested)

    def _restart(self, now: float, congested: bool) -> None:
        self._congested, self._since, self._drained = congested, now, 0

    def _learn(self, elapsed: float) -> None:
        if elapsed <= 0 or not self._drained:
            return
        self._rates.append(self._drained / elapsed)
        self.rate = max(self._rates)
        self.batch = int(min(LARGEST, max(SMALLEST, self.rate * LINK_TIME)))

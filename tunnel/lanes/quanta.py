"""How much a lane moves at a time: the batch that it sends, and the quantum that it reads.

A batch is about a millisecond of link time. A larger one would delay sparse streams behind bulk, a smaller
one would cost needless calls. So the batch follows the rate at which the link drains a full socket, and grows
again whenever the socket takes everything: then the link is not the bottleneck, and its rate is unknown.
Between two times that a socket is full, it has drained what it took in between, however small the pieces. A
rate measured from the first send of a small batch would keep batches small forever.

The read quantum shares an event loop fairly. It is bounded in frames and time, not in bytes alone. Bulk never
reaches these bounds: a batch of it is some 30 frames. A flood of tens of thousands of tiny frames does; the
rest waits for a later loop iteration. While other lanes of the loop are active, such a lane waits longer, so
that all flooded lanes together get at most a seventh of the time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

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

MOST_FRAMES = 128
"""Maximum frames that are processed of a lane in one loop iteration."""

LONGEST = 0.002
"""Seconds after which the quantum is used up, at the next frame whose number is a multiple of ``_LOOK``."""

SMALL_FRAME = 4 * KIB
"""Average frame size in bytes below which a lane that used up its quantum has to wait."""

WAIT = 6.0
"""Such a lane waits this many times as long as its quantum took, if other lanes are active."""

_LOOK = 32  # that many frames of 16 KiB are a batch of bulk, which a slow machine must not split


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


class _Loop(threading.local):
    """State shared by the lanes of one thread, and so of one loop."""

    def __init__(self) -> None:
        self.turns = 0  # times that a lane read or sent
        self.free_at = 0.0  # monotonic seconds: when a lane with tiny frames may read again


_loop = _Loop()


class Turn:
    """The read quantum of one lane. Before the first ``begin`` it is unbounded."""

    __slots__ = ("_began", "_beside", "_clock", "_cut", "_frames", "_others", "_own", "_size", "_until")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._frames: float = float("inf")  # left in the quantum
        self._until = float("inf")
        self._began = 0.0
        self._size = 0
        self._cut = False
        self._beside = -1  # ``turns`` of other lanes at the last call of ``alone``
        self._own = 0  # ``turns`` of this lane
        self._others = 0  # ``turns`` of other lanes at the last call of ``pause``

    def begin(self) -> None:
        """Start a new quantum of reading."""
        self.count()
        self._began = self._clock()
        self._until = self._began + LONGEST
        self._frames = MOST_FRAMES
        self._size = 0
        self._cut = False

    def count(self) -> None:
        """Count activity of this lane, which ``pause`` of other lanes checks."""
        _loop.turns += 1
        self._own += 1

    def alone(self) -> bool:
        """Return whether no other lane of the loop was active since the last call."""
        before, self._beside = self._beside, _loop.turns - self._own
        return self._beside == before

    def spent(self) -> bool:
        """Return whether the quantum is used up; call it before each frame, and stop when it is True."""
        self._frames -= 1
        if self._frames >= 0 and (self._frames % _LOOK or self._clock() < self._until):
            return False
        self._cut = True
        return True

    def took(self, size: int) -> None:
        """Count ``size`` bytes of processed frames."""
        self._size += size

    def pause(self) -> float:
        """Return the seconds that the lane has to wait before it reads again, if there is more to read."""
        before, self._others = self._others, _loop.turns - self._own
        if not self._cut or self._others == before or self._size >= SMALL_FRAME * self._taken:
            return 0.0
        now = self._clock()
        _loop.free_at = max(_loop.free_at, now) + WAIT * (now - self._began)
        return _loop.free_at - now

    @property
    def _taken(self) -> float:
        return MOST_FRAMES - max(0.0, self._frames)

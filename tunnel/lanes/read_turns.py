"""The read quantum of a lane: fair sharing of an event loop, bounded in frames and time, not in bytes alone.

Bulk never reaches these bounds: a batch of it is some 30 frames. A flood of tens of thousands of tiny frames
does; the rest waits for a later loop iteration. While other lanes of the loop are active, such a lane waits
longer, so that all flooded lanes together get at most a seventh of the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from tunnel.units import KIB

MOST_FRAMES = 128
"""Maximum frames that are processed of a lane in one loop iteration."""

LONGEST = 0.002
"""Seconds after which the quantum is used up, at the next frame whose number is a multiple of ``_LOOK``."""

SMALL_FRAME = 4 * KIB
"""Average frame size in bytes below which a lane that used up its quantum has to wait."""

WAIT = 6.0
"""Such a lane waits this many times as long as its quantum took, if other lanes are active."""

_LOOK = 32  # that many frames of 16 KiB are a batch of bulk, which a slow machine must not split


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

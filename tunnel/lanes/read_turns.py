"""How long one lane may keep its loop: a turn of reading is bounded in frames and time, not in bytes alone.

Bulk never meets these bounds: a batch of it is some 30 frames. A peer that sends tens of thousands of tiny
frames at once does; the rest of them waits for the next turn. While other lanes of the loop have something to
do, such a lane waits longer, so that all lanes of this kind together keep the loop for a seventh of the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from tunnel.units import KIB

MOST_FRAMES = 128
"""Frames that are taken from a lane in one turn."""

LONGEST = 0.002
"""Seconds after which a turn ends, at the next frame whose number is a multiple of ``_LOOK``."""

SMALL_FRAME = 4 * KIB
"""Bytes: a turn that was cut off, and whose frames were smaller on the average, has no right to more."""

WAIT = 6.0
"""How many times as long as it took such a turn waits for its next, beside other lanes."""

_LOOK = 32  # as many frames of 16 KiB are a batch of bulk: a slow machine must not cut it in two


class _Loop(threading.local):
    """What the lanes of one thread, and so of one loop, share."""

    def __init__(self) -> None:
        self.turns = 0  # of reading and of sending
        self.free_at = 0.0  # monotonic seconds: when the next turn of tiny frames may begin


_loop = _Loop()


class Turn:
    """One lane's turns, one after the other. Before the first ``begin`` there is no bound."""

    __slots__ = ("_began", "_beside", "_clock", "_cut", "_frames", "_others", "_own", "_size", "_until")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._frames: float = float("inf")  # that may still be taken
        self._until = float("inf")
        self._began = 0.0
        self._size = 0
        self._cut = False
        self._beside = -1  # turns of other lanes, when ``alone`` was last asked
        self._own = 0  # turns of this lane
        self._others = 0  # turns of other lanes, when this one's last turn was over

    def begin(self) -> None:
        """A turn of reading begins."""
        self.count()
        self._began = self._clock()
        self._until = self._began + LONGEST
        self._frames = MOST_FRAMES
        self._size = 0
        self._cut = False

    def count(self) -> None:
        """This lane has something to do: what other lanes ask for in ``pause``."""
        _loop.turns += 1
        self._own += 1

    def alone(self) -> bool:
        """Whether no other lane of the loop had anything to do since this was last asked."""
        before, self._beside = self._beside, _loop.turns - self._own
        return self._beside == before

    def spent(self) -> bool:
        """Whether the turn is over; to be asked before each frame, and True for no more than one of them."""
        self._frames -= 1
        if self._frames >= 0 and (self._frames % _LOOK or self._clock() < self._until):
            return False
        self._cut = True
        return True

    def took(self, size: int) -> None:
        """Bytes of frames were taken."""
        self._size += size

    def pause(self) -> float:
        """Seconds that the lane has to wait before its next turn, if there is more to take."""
        before, self._others = self._others, _loop.turns - self._own
        if not self._cut or self._others == before or self._size >= SMALL_FRAME * self._taken:
            return 0.0
        now = self._clock()
        _loop.free_at = max(_loop.free_at, now) + WAIT * (now - self._began)
        return _loop.free_at - now

    @property
    def _taken(self) -> float:
        return MOST_FRAMES - max(0.0, self._frames)

"""A token bucket: how often something may happen. The caller has the clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, and ``per_second`` in the long run."""

    burst: float
    per_second: float


class Bucket:
    """Begins with ``rate.burst`` tokens. ``now`` is in seconds, of any clock that never goes back."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float, count: int = 1) -> bool:
        """Take ``count`` tokens, if there are as many."""
        self._refill(now)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def borrow(self, now: float) -> float:
        """Take a token, which may not be there yet; how many seconds to wait until it is."""
        self._refill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate.per_second)

    def has(self, now: float) -> bool:
        """Whether there is a token to take."""
        self._refill(now)
        return self._tokens >= 1

    def give_back(self) -> None:
        """Undo a ``take``."""
        self._tokens = min(self._rate.burst, self._tokens + 1)

    def full(self, now: float) -> bool:
        """Whether it is as a new one."""
        self._refill(now)
        return self._tokens >= self._rate.burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self._rate.burst, self._tokens + (now - self._at) * self._rate.per_second)
        self._at = now

"""A token bucket rate limiter. The caller supplies the clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """A burst of ``burst`` tokens, refilled at ``per_second``."""

    burst: float
    per_second: float


class Bucket:
    """A bucket that starts full. ``now`` is in seconds, of any monotonic clock."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float, count: int = 1) -> bool:
        """Take ``count`` tokens and return True, or return False when there are fewer."""
        self._refill(now)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def borrow(self, now: float) -> float:
        """Take a token, perhaps in advance; return for how many seconds to wait until it is available."""
        self._refill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate.per_second)

    def has(self, now: float) -> bool:
        """Return whether a token is available."""
        self._refill(now)
        return self._tokens >= 1

    def give_back(self) -> None:
        """Put back one token."""
        self._tokens = min(self._rate.burst, self._tokens + 1)

    def full(self, now: float) -> bool:
        """Return whether the bucket is full."""
        self._refill(now)
        return self._tokens >= self._rate.burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self._rate.burst, self._tokens + (now - self._at) * self._rate.per_second)
        self._at = now

"""When to redial: immediately after a loss, with exponential backoff after failures, never in a busy loop.

No clock and no randomness here: times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable

from tunnel.net.token_bucket import Bucket, Rate

FIRST_PAUSE = 0.03
LONGEST_PAUSE = 5.0
LONGEST_RESUME_PAUSE = 1.0
"""Seconds between attempts; shorter while hypervisors wait for the session to be resumed."""

STEADY = 5.0
"""A session that ends within so many seconds counts as a failed attempt."""

BURST = 75
RATE = 12.0
"""Lost lanes replaced without delay, and further ones per second: bounds the cost of TLS handshakes."""


class Backoff:
    """The backoff of one dialer. ``jitter`` returns a number between 0.5 and 1, to spread many dialers."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = {False: 0, True: 0}  # consecutive: to begin a session, to resume one
        self._began: float | None = None  # start of the session whose end is not accounted for yet
        self._bucket = Bucket(Rate(BURST, RATE), 0.0)

    def failed(self, *, resuming: bool) -> None:
        """The attempt failed."""
        self._failures[resuming] += 1

    def satisfied(self, now: float) -> None:
        """There is nothing to dial: the session is up and has its lanes."""
        self._failures[True] = 0
        if self._began is None:
            self._began = now

    def pause(self, now: float, *, resuming: bool) -> float:
        """Return the seconds to wait before the next attempt. Call it once for each."""
        if not resuming and self._began is not None:
            lasted, self._began = now - self._began, None
            self._failures[False] = 0 if lasted >= STEADY else self._failures[False] + 1
        if failures := self._failures[resuming]:
            longest = LONGEST_RESUME_PAUSE if resuming else LONGEST_PAUSE
            return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 32), longest) * self._jitter()
        return self._bucket.borrow(now)

"""When to dial again: at once after a loss, later and later after failures, and never in a loop that spins.

No clock and no randomness of its own: times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

from collections.abc import Callable

from tunnel.net.token_bucket import Bucket, Rate

FIRST_PAUSE = 0.03
LONGEST_PAUSE = 5.0
LONGEST_RESUME_PAUSE = 1.0
"""Seconds between attempts; shorter where hypervisors wait for the session to be resumed."""

STEADY = 5.0
"""Seconds that a session has to last: one that ends sooner counts as a failure to begin it."""

BURST = 75
RATE = 12.0
"""Lost lanes that are replaced at once, and how many more each second: what TLS costs then stays bounded."""


class Backoff:
    """One dialer's. ``jitter`` returns a number between 0.5 and 1: many dialers do not come all at once."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = {False: 0, True: 0}  # in a row: to begin a session, to resume one
        self._began: float | None = None  # when the session began whose end is not considered yet
        self._bucket = Bucket(Rate(BURST, RATE), 0.0)

    def failed(self, *, resuming: bool) -> None:
        """The attempt failed."""
        self._failures[resuming] += 1

    def satisfied(self, now: float) -> None:
        """Nothing is to be dialled: there is a session, and it has its lanes."""
        self._failures[True] = 0
        if self._began is None:
            self._began = now

    def pause(self, now: float, *, resuming: bool) -> float:
        """How many seconds to wait before the next attempt; to be asked once for each."""
        if not resuming and self._began is not None:
            lasted, self._began = now - self._began, None
            self._failures[False] = 0 if lasted >= STEADY else self._failures[False] + 1
        if failures := self._failures[resuming]:
            longest = LONGEST_RESUME_PAUSE if resuming else LONGEST_PAUSE
            return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 32), longest) * self._jitter()
        return self._bucket.borrow(now)

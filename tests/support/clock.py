"""Time in a test's own hands."""

from __future__ import annotations


class Clock:
    """Seconds, which stand still unless the test lets them go by."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

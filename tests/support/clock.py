"""A clock that is controlled by the test."""

from __future__ import annotations


class Clock:
    """A clock in seconds that advances only when the test sets ``now``."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

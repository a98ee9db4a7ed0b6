"""Search for the highest dirty rate at which a mode still converges, by bisection over a grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RateSteps:
    """The rates that may be tried, in bytes per second: each multiple of ``step`` up to ``highest``."""

    step: int
    highest: int

    @property
    def size(self) -> int:
        """The number of rates."""
        return self.highest // self.step

    @property
    def most_probes(self) -> int:
        """The maximum number of migrations of a search."""
        return self.size.bit_length()


class Search:
    """One search: get ``next_rate``, try it, report the result with ``tried``, until it is None.

    A mode that converges at a rate is assumed to converge at every lower one.
    """

    def __init__(self, grid: RateSteps) -> None:
        self._grid = grid
        self._converged, self._failed = 0, grid.size + 1

    @property
    def next_rate(self) -> int | None:
        """The rate to try next; None when the search has ended."""
        if self._failed - self._converged == 1:
            return None
        return (self._converged + self._failed) // 2 * self._grid.step

    def tried(self, rate: int, *, converged: bool) -> None:
        """Record whether a migration at this rate converged."""
        number = rate // self._grid.step
        if converged:
            self._converged = max(self._converged, number)
        else:
            self._failed = min(self._failed, number)

    @property
    def limit(self) -> int:
        """The highest rate that converged so far; 0 if none did."""
        return self._converged * self._grid.step

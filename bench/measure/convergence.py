"""The search for the highest dirty rate that a mode still converges at, by bisection over a grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RateSteps:
    """The rates that may be tried, in bytes a second: each multiple of ``step`` up to ``highest``."""

    step: int
    highest: int

    @property
    def size(self) -> int:
        """How many rates there are."""
        return self.highest // self.step

    @property
    def most_probes(self) -> int:
        """How many migrations a search needs at most."""
        return self.size.bit_length()


class Search:
    """One search. Ask for ``next_rate``, try it, say whether it converged, until there is none.

    A mode that converges at a rate is taken to converge at every lower one.
    """

    def __init__(self, grid: RateSteps) -> None:
        self._grid = grid
        self._converged, self._failed = 0, grid.size + 1

    @property
    def next_rate(self) -> int | None:
        """The rate to try next; None when the answer is known."""
        if self._failed - self._converged == 1:
            return None
        return (self._converged + self._failed) // 2 * self._grid.step

    def tried(self, rate: int, *, converged: bool) -> None:
        """Take in what became of a rate."""
        number = rate // self._grid.step
        if converged:
            self._converged = max(self._converged, number)
        else:
            self._failed = min(self._failed, number)

    @property
    def limit(self) -> int:
        """The highest rate that converged so far; 0 when none did."""
        return self._converged * self._grid.step

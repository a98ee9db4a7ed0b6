"""One figure against what it is to reach, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.bench.measure.stats import Spread

HEADINGS = ("figure", "release", "found", "must", "aim", "verdict")


@dataclass(frozen=True)
class Reached:
    """One figure, None where no file holds it. ``at_most``: a cost. ``aim`` None: simply better.

    ``reason``: why it does not count here, although there may be a figure: a rival is not the one that is
    meant, or nothing measures it. ``when``: of which run, where there are several; ``release`` of the system.
    """

    what: str
    found: Spread | None
    must: float
    aim: float | None
    unit: str = ""
    at_most: bool = True
    reason: str = ""
    when: str = ""
    release: str = ""

    @property
    def verdict(self) -> str:
        """Whether the median reaches what it is to."""
        if self.reason:
            return f"not measured: {self.reason}"
        if self.found is None:
            return "not measured"
        if not self._reaches(self.found.median, self.must):
            return "missed"
        return "as aimed at" if self.aim and self._reaches(self.found.median, self.aim) else "met"

    def _reaches(self, value: float, goal: float) -> bool:
        return value <= goal if self.at_most else value >= goal

    def cells(self) -> list[str]:
        """Return the row of the table, as ``HEADINGS`` has it."""
        bound = "at most" if self.at_most else "at least"
        must, aim = (f"{bound} {goal:.3g}{self.unit}" if goal else "better" for goal in (self.must, self.aim))
        what = f"{self.what} ({self.when})" if self.when else self.what
        found = f"{self.found}{self.unit}" if self.found and not self.reason else "-"
        return [what, self.release or "-", found, must, aim, self.verdict]

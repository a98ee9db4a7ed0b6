"""One figure compared with its goal, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.bench.measure.stats import Spread

HEADINGS = ("figure", "release", "found", "must", "aim", "verdict")


@dataclass(frozen=True)
class Reached:
    """One figure and its goal; ``found`` None: in no file. ``at_most``: a cost. ``aim`` None: "better".

    ``reason``: why the figure, if any, does not count, such as a different rival.
    ``when``: date of the run, if there are several; ``release``: of the system that it ran on.
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
        """The verdict on the median: "met", "as aimed at", "missed", or "not measured" with the reason."""
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
        """Return the table row, in the order of ``HEADINGS``."""
        bound = "at most" if self.at_most else "at least"
        must, aim = (f"{bound} {goal:.3g}{self.unit}" if goal else "better" for goal in (self.must, self.aim))
        what = f"{self.what} ({self.when})" if self.when else self.what
        found = f"{self.found}{self.unit}" if self.found and not self.reason else "-"
        return [what, self.release or "-", found, must, aim, self.verdict]

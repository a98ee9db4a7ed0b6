"""One figure compared with its goal, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.document import Cell, Marked, Tone

HEADINGS = ("figure", "found", "must", "aim", "verdict", "run")


@dataclass(frozen=True)
class Reached:
    """One figure and its goal; ``found`` None: in no file. ``at_most``: a cost. ``aim`` None: "better".

    ``reason``: why the figure, if any, does not count: a different rival ran, or no benchmark measures it.
    ``where``: the case, if there are several. ``run``: release and date of the run.
    """

    what: str
    found: Spread | None
    must: float
    aim: float | None
    unit: str = ""
    at_most: bool = True
    reason: str = ""
    where: str = ""
    run: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether there is a figure that counts."""
        return self.found is not None and not self.reason

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

    def cells(self) -> list[Cell]:
        """Return the table row, in the order of ``HEADINGS``."""
        bound = "≤" if self.at_most else "≥"
        must, aim = (f"{bound} {goal:.3g}{self.unit}" if goal else "better" for goal in (self.must, self.aim))
        what = f"{self.what}, {self.where}" if self.where else self.what
        found = f"{self.found}{self.unit}" if self.is_measured else "-"
        return [what, found, must, aim, Marked(self.verdict, tone_of(self.verdict)), self.run or "-"]


_TONES: Mapping[str, Tone] = {"as aimed at": "good", "met": "good", "missed": "bad"}


def tone_of(verdict: str) -> Tone:
    """Return how a verdict is shown."""
    return _TONES.get(verdict, "unclear")

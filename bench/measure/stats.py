"""Figures: a median with its spread, ratios to a base, and their text form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the summary of one value or more."""
        return cls(median(values), min(values), max(values))

    def times(self, factor: float) -> Spread:
        """Return the spread in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"

    def as_dict(self) -> dict[str, float]:
        """Return the fields in a result file."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


def ratio(values: dict[int, float], base: dict[int, float]) -> Spread | None:
    """Return ``values`` divided by ``base`` of the same round, both by round.

    Rounds alternate between the contestants, so a slow minute of the machine affects both and cancels out.
    None when no round has both, or the base was too short to be measured.
    """
    shared = [number for number in sorted(values.keys() & base.keys()) if base[number]]
    return Spread.of([values[number] / base[number] for number in shared]) if shared else None

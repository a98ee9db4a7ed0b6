"""Figures: a median with its spread, ratios against a base, and how people read them."""

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
        """Summarise at least one value."""
        return cls(median(values), min(values), max(values))

    def times(self, factor: float) -> Spread:
        """Return the same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"

    def as_dict(self) -> dict[str, float]:
        """Return what a result file holds."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


def ratio(values: dict[int, float], base: dict[int, float]) -> Spread | None:
    """Return how ``values`` compare to ``base``, both by round: each is divided by the same round's base.

    Rounds alternate between the contestants, so that a slow minute of the machine hits both and cancels out.
    None when no round has both, or the base was too short to be measured.
    """
    shared = [number for number in sorted(values.keys() & base.keys()) if base[number]]
    return Spread.of([values[number] / base[number] for number in shared]) if shared else None

"""mtunnel against its rivals: which bar of a chart is the best, and where mtunnel wins or loses.

Rivals are contestants that encrypt. Ratios are taken within a round; a spread that includes 1 is level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any

from tunnel.bench.measure.stats import Spread, ratio
from tunnel.bench.report.charts import Bar, Mark, Row
from tunnel.bench.report.document import Tone
from tunnel.bench.report.mode_names import is_ours

Values = Mapping[int, float]
"""One figure by round."""

TONES: Mapping[Mark, Tone] = {"wins": "good", "loses": "bad", "level": "unclear"}
KEY = (
    "★ the best that encrypts; ▲ ▼ ≈ mtunnel wins, loses or is level against the best rival that encrypts, "
    "in every round. A thin line spans the lowest and the highest round, the figure is the median."
)
"""How to read a chart."""


def standing(found: Spread, *, least_is_best: bool = False) -> Mark:
    """Return the verdict on a ratio of mtunnel's figure to a rival's."""
    if found.low <= 1 <= found.high:
        return "level"
    return "wins" if (found.low > 1) is not least_is_best else "loses"


@dataclass(frozen=True)
class Entrant:
    """A contestant of a chart: its figure in each series, None where it was not measured.

    ``parts``: of its bar in each series, from left to right; empty where a bar has one part.
    """

    name: str
    label: str
    encrypts: bool
    figures: Sequence[Values | None]
    parts: Sequence[Sequence[float]] = ()

    @property
    def is_rival(self) -> bool:
        """Whether mtunnel is compared with it."""
        return self.encrypts and not is_ours(self.name)


def joined(groups: Sequence[Sequence[Entrant]]) -> list[Entrant]:
    """Return entrants with a series for each group; those of a group have one series."""
    first: dict[str, Entrant] = {}
    for entrant in chain.from_iterable(groups):
        first.setdefault(entrant.name, entrant)
    return [replace(entrant, **_series(name, groups)) for name, entrant in first.items()]


def _series(name: str, groups: Sequence[Sequence[Entrant]]) -> dict[str, Any]:
    found = [next((e for e in group if e.name == name), None) for group in groups]
    parts = [e.parts[0] if e and e.parts else () for e in found]
    return {"figures": [e.figures[0] if e else None for e in found], "parts": parts if any(parts) else ()}


@dataclass(frozen=True)
class Advantage:
    """The figure of mtunnel's best entrant as a multiple of that of ``rival``, the best rival, by round."""

    rival: Entrant
    ratio: Spread


def advantage(entrants: Sequence[Entrant], *, least_is_best: bool) -> Advantage | None:
    """Return how the best compare in the first series; None when there is no round with both."""
    ours = _best([e for e in entrants if is_ours(e.name)], 0, least_is_best)
    rival = _best([e for e in entrants if e.is_rival], 0, least_is_best)
    found = _ratio(ours, rival, 0) if ours and rival else None
    return Advantage(rival, found) if rival and found else None


def rows(entrants: Sequence[Entrant], *, least_is_best: bool) -> list[Row]:
    """Return the rows of a chart, in the same order; entrants without a figure are left out."""
    shown = [entrant for entrant in entrants if any(entrant.figures)]
    width = len(shown[0].figures) if shown else 0
    best = [_best([e for e in shown if e.encrypts], series, least_is_best) for series in range(width)]
    rivals = [_best([e for e in shown if e.is_rival], series, least_is_best) for series in range(width)]
    return [_row(entrant, best, rivals, least_is_best) for entrant in shown]


def _row(
    entrant: Entrant, best: Sequence[Entrant | None], rivals: Sequence[Entrant | None], least_is_best: bool
) -> Row:
    ours = is_ours(entrant.name)
    compared = [_ratio(entrant, rival, n) if ours and rival else None for n, rival in enumerate(rivals)]
    marks: list[Mark] = [standing(found, least_is_best=least_is_best) if found else "" for found in compared]
    bars = [
        _bar(entrant, n, figures, "best" if entrant is best[n] else marks[n]) if figures else None
        for n, figures in enumerate(entrant.figures)
    ]
    note = _note(entrant, compared[0], rivals[0]) if len(bars) == 1 else ""
    return Row(entrant.label, bars, ours, note, marks[0])


def _bar(entrant: Entrant, series: int, figures: Values, mark: Mark) -> Bar:
    spread = Spread.of(list(figures.values()))
    return Bar(entrant.parts[series] if entrant.parts else [spread.median], spread, mark)


def _note(entrant: Entrant, compared: Spread | None, rival: Entrant | None) -> str:
    if compared:
        return f"{compared.median:.2f} times best rival"
    if not entrant.encrypts:
        return "not encrypted"
    return "best rival" if entrant is rival else ""


def _best(entrants: Sequence[Entrant], series: int, least_is_best: bool) -> Entrant | None:
    """Return the entrant with the best median in a series; None when none has a figure."""
    medians = {n: median(found.values()) for n, e in enumerate(entrants) if (found := e.figures[series])}
    choose: Callable[..., int] = min if least_is_best else max
    return entrants[choose(medians, key=lambda n: medians[n])] if medians else None


def _ratio(ours: Entrant, rival: Entrant, series: int) -> Spread | None:
    return ratio(dict(ours.figures[series] or {}), dict(rival.figures[series] or {}))

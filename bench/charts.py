"""Bar charts as small inline SVG, drawn by hand.

A drawing library would bring thirty megabytes for bars, and its text shrinks with the picture. Here one
unit is one pixel at 360 px, the width of a telephone, and a page never shows a chart narrower than that;
colours come from the page's style sheet, so that they follow a dark theme. The name of a row stands above its
bars, its median behind them, and a thin line over each bar spans the lowest to the highest round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tunnel.bench.figures import Spread

WIDTH = 360
_LEFT = 8  # where bars begin: half of the tick 0 fits before
_RIGHT = 304  # where the longest ends: its figure fits behind
_TOP = 2
_NAME = 16
_BAR = 14
_GAP = 10
_AXIS = 22


@dataclass(frozen=True)
class Bar:
    """One bar: its parts from left to right, and the spread of their sum."""

    parts: Sequence[float]
    spread: Spread

    @classmethod
    def of(cls, spread: Spread) -> Bar:
        """Return a bar of one part."""
        return cls([spread.median], spread)


@dataclass(frozen=True)
class Row:
    """What one contestant shows: a bar for each series, None for one that was not measured."""

    label: str
    bars: Sequence[Bar | None]
    is_ours: bool = False

    @property
    def drawn(self) -> list[Bar]:
        """The bars that there are."""
        return [bar for bar in self.bars if bar is not None]


@dataclass(frozen=True)
class Chart:
    """One chart. ``series`` names the bars of a row or the parts of its only bar; ``line`` is a goal."""

    title: str
    unit: str
    rows: Sequence[Row]
    how_to_read: str
    series: Sequence[str] = ()
    line: Spread | None = None
    line_name: str = "floor"

    def svg(self) -> str:
        """Return the picture."""
        heights = [_height(row) for row in self.rows]
        height = _TOP + sum(heights) + _AXIS
        top = self._highest()
        marks = [_ticks(top, height), *self._rows(heights, top), *self._line(height, top)]
        label = escape(f"{self.title}, {self.unit}: {', '.join(map(_spoken, self.rows))}", quote=True)
        return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(marks)}</svg>'

    def _highest(self) -> float:
        ends = [bar.spread.high for row in self.rows for bar in row.drawn]
        return max([*ends, self.line.high if self.line else 0.0]) or 1.0

    def _rows(self, heights: Sequence[int], top: float) -> list[str]:
        drawn, y = [], _TOP
        for row, height in zip(self.rows, heights, strict=True):
            drawn.append(_row(row, y, top))
            y += height
        return drawn

    def _line(self, height: int, top: float) -> list[str]:
        if self.line is None:
            return []
        low, mid, high = (_x(value, top) for value in (self.line.low, self.line.median, self.line.high))
        bottom = height - _AXIS
        band = f'<rect class="band" x="{low}" y="0" width="{high - low:.1f}" height="{bottom}"/>'
        return [band, f'<line class="mark" x1="{mid}" x2="{mid}" y1="0" y2="{bottom}"/>']


def _height(row: Row) -> int:
    return _NAME + len(row.bars) * _BAR + _GAP


def _x(value: float, top: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * value / top, 1)


def _row(row: Row, y: int, top: float) -> str:
    kind = "name ours" if row.is_ours else "name"
    name = f'<text class="{kind}" x="{_LEFT}" y="{y + _NAME - 4}">{escape(row.label)}</text>'
    tops = [(index, y + _NAME + index * _BAR) for index in range(len(row.bars))]
    return name + "".join(
        _bar(bar, place, index, top)
        for bar, (index, place) in zip(row.bars, tops, strict=True)
        if bar is not None
    )


def _bar(bar: Bar, y: int, index: int, top: float) -> str:
    drawn, start = [], 0.0
    for number, part in enumerate(bar.parts):
        left, right = _x(start, top), _x(start + part, top)
        series = number if len(bar.parts) > 1 else index
        drawn.append(
            f'<rect class="bar s{series % 6}" x="{left}" y="{y + 1}" width="{max(right - left, 0.5):.1f}" '
            f'height="{_BAR - 2}"/>'
        )
        start += part
    low, high = _x(bar.spread.low, top), _x(bar.spread.high, top)
    middle = y + _BAR / 2
    drawn.append(
        f'<path class="spread" d="M{low} {middle - 3}v6M{low} {middle}H{high}M{high} {middle - 3}v6"/>'
    )
    drawn.append(f'<text class="value" x="{WIDTH - 2}" y="{middle + 4}">{figure(bar.spread.median)}</text>')
    return "".join(drawn)


def _ticks(top: float, height: int) -> str:
    step = _nice(top / 4)
    values = [step * number for number in range(int(top / step + 1e-9) + 1)]
    bottom = height - _AXIS
    return "".join(
        f'<line class="grid" x1="{_x(value, top)}" x2="{_x(value, top)}" y1="0" y2="{bottom}"/>'
        f'<text class="tick" x="{_x(value, top)}" y="{height - 6}">{value:g}</text>'
        for value in (round(value, 9) for value in values)
    )


def _nice(value: float) -> float:
    """Return the least of 1, 2, 5, 10, … times a power of ten that is not below ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def figure(value: float) -> str:
    """Return a number with three digits that count, as long as it fits at the right of a bar."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spoken(row: Row) -> str:
    return f"{row.label} {' and '.join(figure(bar.spread.median) for bar in row.drawn)}"

"""Bar charts as small inline SVG, without a drawing library.

A library would add thirty megabytes, and its text shrinks with the picture. Here one
unit is one pixel at 360 px, the width of a telephone, and a page never shows a chart narrower than that;
colours come from the page's style sheet, so they follow a dark theme. The name of a row is above its
bars, its median behind them, and a thin line over each bar spans the lowest to the highest round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from tunnel.bench.measure.stats import Spread

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #59636e; --line: #d1d9e0; --paper: #fff;
  --card: #f6f8fa;
  --ours: #0550ae; --c0: #2f81c7; --c1: #9ec9ec; --c2: #d98324; --c3: #f0c38c; --c4: #5d9e52; --c5: #b4d6ac; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --paper: #0d1117;
  --card: #151b23; --ours: #79c0ff; --c0: #4493d6; --c1: #23496b; --c2: #c9772b; --c3: #6e4519; --c4: #4f8f46;
  --c5: #2b5227; } }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .ours { font-weight: 700; fill: var(--ours); }
svg .value { text-anchor: end; } svg .tick { text-anchor: middle; fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .spread { stroke: var(--ink); fill: none; }
svg .mark { stroke: #cf222e; stroke-dasharray: 4 3; stroke-width: 1.5; }
svg .band { fill: #cf222e; opacity: .15; }
.s0 { fill: var(--c0); background: var(--c0); } .s1 { fill: var(--c1); background: var(--c1); }
.s2 { fill: var(--c2); background: var(--c2); } .s3 { fill: var(--c3); background: var(--c3); }
.s4 { fill: var(--c4); background: var(--c4); } .s5 { fill: var(--c5); background: var(--c5); }
"""
"""The colours of charts, in a page and in a picture."""

WIDTH = 360
_LEFT = 8  # start of the bars: half of tick label 0 fits before it
_RIGHT = 304  # end of the longest bar: its figure fits behind it
_TOP = 2
_NAME = 16
_BAR = 14
_GAP = 10
_AXIS = 22


Mark = Literal["", "best", "wins", "level", "loses"]
"""The verdict on a bar: the best of its series, or how mtunnel compares with the best rival."""

SYMBOLS: Mapping[Mark, str] = {"": "", "best": "★ ", "wins": "▲ ", "level": "≈ ", "loses": "▼ "}


@dataclass(frozen=True)
class Bar:
    """One bar: its parts from left to right, the spread of their sum, and the verdict."""

    parts: Sequence[float]
    spread: Spread
    mark: Mark = ""

    @property
    def text(self) -> str:
        """The symbol of the verdict, and the median."""
        return SYMBOLS[self.mark] + figure(self.spread.median)

    @classmethod
    def of(cls, spread: Spread) -> Bar:
        """Return a bar of one part."""
        return cls([spread.median], spread)


@dataclass(frozen=True)
class Row:
    """The bars of one contestant, one for each series; None where it was not measured.

    ``note``: text to the right of the name, and ``note_mark`` its verdict.
    """

    label: str
    bars: Sequence[Bar | None]
    is_ours: bool = False
    note: str = ""
    note_mark: Mark = ""

    @property
    def drawn(self) -> list[Bar]:
        """The bars that were measured."""
        return [bar for bar in self.bars if bar is not None]


@dataclass(frozen=True)
class Chart:
    """One chart. ``line`` is a floor.

    ``series`` names the bars of a row, or the parts of each of its bars; ``bars`` names the bars in the
    latter case. Without ``series``, the bars of mtunnel and those of others have different colours.
    """

    title: str
    unit: str
    rows: Sequence[Row]
    how_to_read: str
    series: Sequence[str] = ()
    line: Spread | None = None
    line_name: str = "floor"
    bars: Sequence[str] = ()

    @property
    def is_stacked(self) -> bool:
        """Whether bars have several parts."""
        return any(len(bar.parts) > 1 for row in self.rows for bar in row.drawn)

    @property
    def bar_names(self) -> Sequence[str]:
        """The names of the bars of each row; none where a row has one."""
        return self.bars if self.is_stacked else self.series

    @property
    def height(self) -> int:
        """The height of the picture, in its own units."""
        return _TOP + sum(map(_height, self.rows)) + _AXIS

    def svg(self) -> str:
        """Return the picture."""
        height, top = self.height, self._highest()
        marks = [_ticks(top, height), *self._rows(top), *self._line(height, top)]
        label = escape(f"{self.title}, {self.unit}: {', '.join(map(_spoken, self.rows))}", quote=True)
        return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(marks)}</svg>'

    def _highest(self) -> float:
        ends = [bar.spread.high for row in self.rows for bar in row.drawn]
        return max([*ends, self.line.high if self.line else 0.0]) or 1.0

    def _rows(self, top: float) -> list[str]:
        drawn, y = [], _TOP
        for row in self.rows:
            drawn.append(_row(row, y, top, bool(self.series)))
            y += _height(row)
        return drawn

    def _line(self, height: int, top: float) -> list[str]:
        if self.line is None:
            return []
        low, mid, high = (_x(value, top) for value in (self.line.low, self.line.median, self.line.high))
        bottom = height - _AXIS
        band = f'<rect class="band" x="{low}" y="0" width="{high - low:.1f}" height="{bottom}"/>'
        return [band, f'<line class="mark" x1="{mid}" x2="{mid}" y1="0" y2="{bottom}"/>']


def picture(chart: Chart) -> str:
    """Return a standalone SVG file: title, key and chart, in colours that follow a dark theme."""
    title = f'<text class="ours" x="{_LEFT}" y="16">{escape(f"{chart.title}, {chart.unit}")}</text>'
    top = 24 + _NAME * len(chart.series)
    key = "".join(
        f'<rect class="s{number % 6}" x="{_LEFT}" y="{24 + number * _NAME}" width="10" height="10"/>'
        f'<text x="{_LEFT + 16}" y="{33 + number * _NAME}">{escape(name)}</text>'
        for number, name in enumerate(chart.series)
    )
    placed = chart.svg().replace("<svg ", f'<svg y="{top}" width="{WIDTH}" height="{chart.height}" ', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" '
        f'viewBox="0 0 {WIDTH} {top + chart.height}">\n<style>{STYLE}</style>\n'
        f'<rect width="100%" height="100%" style="fill: var(--card)"/>\n{title}{key}\n{placed}\n</svg>\n'
    )


def _height(row: Row) -> int:
    return _NAME + len(row.bars) * _BAR + _GAP


def _x(value: float, top: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * value / top, 1)


def _row(row: Row, y: int, top: float, has_series: bool) -> str:
    kind = "name ours" if row.is_ours else "name"
    name = f'<text class="{kind}" x="{_LEFT}" y="{y + _NAME - 4}">{escape(row.label)}</text>'
    if row.note:
        verdict = f"value note {row.note_mark}".strip()
        name += f'<text class="{verdict}" x="{WIDTH - 2}" y="{y + _NAME - 4}">{escape(row.note)}</text>'
    tops = [(index, y + _NAME + index * _BAR) for index in range(len(row.bars))]
    own = "mine" if row.is_ours else "theirs"
    return name + "".join(
        _bar(bar, place, f"s{index % 6}" if has_series else own, top)
        for bar, (index, place) in zip(row.bars, tops, strict=True)
        if bar is not None
    )


def _bar(bar: Bar, y: int, colour: str, top: float) -> str:
    drawn, start = [], 0.0
    for number, part in enumerate(bar.parts):
        left, right = _x(start, top), _x(start + part, top)
        kind = f"p{number}" if len(bar.parts) > 1 else colour
        drawn.append(
            f'<rect class="bar {kind}" x="{left}" y="{y + 1}" width="{max(right - left, 0.5):.1f}" '
            f'height="{_BAR - 2}"/>'
        )
        start += part
    low, high = _x(bar.spread.low, top), _x(bar.spread.high, top)
    middle = y + _BAR / 2
    drawn.append(
        f'<path class="spread" d="M{low} {middle - 3}v6M{low} {middle}H{high}M{high} {middle - 3}v6"/>'
    )
    verdict = f"value {bar.mark}".strip()
    drawn.append(f'<text class="{verdict}" x="{WIDTH - 2}" y="{middle + 4}">{bar.text}</text>')
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
    """Return a number with three significant digits, short enough to fit to the right of a bar."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spoken(row: Row) -> str:
    return f"{row.label} {' and '.join(figure(bar.spread.median) for bar in row.drawn)}"

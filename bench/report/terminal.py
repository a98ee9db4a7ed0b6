"""A report on a terminal: the text and tables, and each chart as bars of characters with its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tunnel.bench.report.charts import SYMBOLS, Bar, Chart, Mark, Row, figure
from tunnel.bench.report.document import RANGE, Block, Cell, Claim, DataTable, Document, Marked, Tone
from tunnel.bench.report.standing import TONES

_BAR, _SHORT_BAR = 16, 8  # characters
_UNLIMITED = 1000
_STYLES: Mapping[Tone, str] = {"good": "green", "bad": "red", "unclear": "yellow"}


def render(document: Document) -> Group:
    """Return what rich prints."""
    return Group(*_parts(document))


def _parts(document: Document) -> Iterator[RenderableType]:
    for section in document.sections:
        yield Text(f"\n{section.title}", style="bold")
        for block in section.blocks:
            yield from _block(block)


def _block(block: Block) -> Iterator[RenderableType]:
    if isinstance(block, Chart):
        yield Text(f"\n{block.title}, {block.unit}", style="italic")
        yield _Fitting(partial(_chart, block))
    elif isinstance(block, DataTable):
        yield ""
        yield _Fitting(partial(_table, block))
    elif isinstance(block, Claim):
        yield Text.assemble((f"{block.topic}: ", "bold"), (block.text, _STYLES[block.tone]))
    elif isinstance(block, tuple):
        yield from (Text(f"- {line}") for line in block)
    else:
        yield Text(f"\n{block}", style="dim")


class _Fitting:
    """A table in its full form where the terminal is wide enough, or else in its short form."""

    def __init__(self, make: Callable[[bool], Table]) -> None:
        """``make`` returns the table, short if its argument is true."""
        self._make = make

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = self._make(False)
        natural = Measurement.get(console, options.update(max_width=_UNLIMITED), full).maximum
        yield full if natural <= options.max_width else self._make(True)


def _table(table: DataTable, short: bool) -> Table:
    """Return a table; the short form has medians without the lowest and the highest round."""
    view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(table.headings):
        side: JustifyMethod = "left" if number == 0 or table.words else "right"
        words = heading.replace(" ", "\n") if short and not table.words else heading
        view.add_column(words, justify=side, overflow="fold")
    for row in table.rows:
        view.add_row(*(_text(cell, short=short) for cell in row))
    return view


def _text(cell: Cell, *, short: bool) -> Text:
    text = RANGE.sub("", str(cell)).replace("  ", " ") if short else str(cell)
    return Text(text.strip(), style=_STYLES[cell.tone] if isinstance(cell, Marked) else "")


def _chart(chart: Chart, short: bool) -> Table:
    """Return a line for each bar, whose parts are not distinguished; the short form has medians only."""
    view = Table(box=None, pad_edge=False, show_header=False)
    width = _SHORT_BAR if short else _BAR
    for least in (None, None, width, None, None):
        view.add_column(min_width=least, overflow="fold")
    highest = max((bar.spread.median for row in chart.rows for bar in row.drawn), default=0.0) or 1.0
    for row in chart.rows:
        for number, bar in enumerate(row.bars):
            if bar is not None:
                drawn = "█" * max(1, round(width * bar.spread.median / highest))
                series = chart.bar_names[number] if len(row.bars) > 1 else ""
                view.add_row(
                    *_line(row if number == 0 else replace(row, label=""), series, drawn, bar, short)
                )
    if chart.line is not None:
        view.add_row(chart.line_name, "", "", figure(chart.line.median) if short else str(chart.line))
    return view


def _line(row: Row, series: str, drawn: str, bar: Bar, short: bool) -> list[Text]:
    value = bar.text if short else f"{SYMBOLS[bar.mark]}{bar.spread}"
    return [
        Text(row.label, style="bold" if row.is_ours else ""),
        Text(series, style="dim"),
        Text(drawn, style="blue" if row.is_ours else "dim"),
        Text(value, style=_style(bar.mark)),
        Text(row.note, style=_style(row.note_mark)),
    ]


def _style(mark: Mark) -> str:
    if mark == "best":
        return "bold green"
    return _STYLES[TONES[mark]] if mark else ""

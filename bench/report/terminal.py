"""A report on a terminal: the text and tables, and each chart as bars of characters with its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunnel.bench.report.charts import SYMBOLS, Bar, Chart, Mark, Row
from tunnel.bench.report.document import Block, Cell, Claim, DataTable, Document, Marked, Tone
from tunnel.bench.report.standing import TONES

_BAR = 24  # characters
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
        yield _chart(block)
    elif isinstance(block, DataTable):
        yield _table(block)
    elif isinstance(block, Claim):
        yield Text.assemble((f"{block.topic}: ", "bold"), (block.text, _STYLES[block.tone]))
    elif isinstance(block, tuple):
        yield from (Text(f"- {line}") for line in block)
    else:
        yield Text(block, style="dim")


def _text(cell: Cell) -> Text:
    return Text(str(cell), style=_STYLES[cell.tone] if isinstance(cell, Marked) else "")


def _table(table: DataTable) -> Table:
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(table.headings):
        left = number == 0 or table.words
        fixed = number == 0 and not table.words
        view.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=fixed)
    for row in table.rows:
        view.add_row(*map(_text, row))
    return view


def _chart(chart: Chart) -> Table:
    """Return a line for each bar; the parts of a bar are not distinguished."""
    view = Table(box=None, pad_edge=False, show_header=False)
    highest = max((bar.spread.median for row in chart.rows for bar in row.drawn), default=0.0) or 1.0
    for row in chart.rows:
        for number, bar in enumerate(row.bars):
            if bar is not None:
                view.add_row(*_line(chart, row, number, bar, highest))
    if chart.line is not None:
        view.add_row(chart.line_name, "", "", str(chart.line))
    return view


def _line(chart: Chart, row: Row, number: int, bar: Bar, highest: float) -> list[Text]:
    series = chart.bar_names[number] if len(row.bars) > 1 else ""
    drawn = "█" * max(1, round(_BAR * bar.spread.median / highest))
    name = row.label if number == 0 else ""
    return [
        Text(name, style="bold" if row.is_ours else ""),
        Text(series, style="dim"),
        Text(drawn, style="blue" if row.is_ours else "dim"),
        Text(f"{SYMBOLS[bar.mark]}{bar.spread}", style=_style(bar.mark)),
        Text(row.note, style=_style(row.note_mark)),
    ]


def _style(mark: Mark) -> str:
    if mark == "best":
        return "bold green"
    return _STYLES[TONES[mark]] if mark else ""

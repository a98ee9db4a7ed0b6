"""A report as Markdown: the text and tables of the page; charts become tables of figures with their notes."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.report.charts import SYMBOLS, Bar, Chart
from tunnel.bench.report.document import Block, Cell, Claim, DataTable, Document


def render(document: Document) -> str:
    """Return the Markdown text."""
    return "\n\n".join(_parts(document)) + "\n"


def _parts(document: Document) -> Iterator[str]:
    if document.title:
        yield f"# {document.title}"
    for section in document.sections:
        if section.title:
            yield f"## {section.title}"
        for block in section.blocks:
            yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Chart):
        yield f"### {block.title}"
        yield block.how_to_read
        yield _grid(figures(block))
    elif isinstance(block, DataTable):
        yield _grid(block)
    elif isinstance(block, Claim):
        yield f"**{block.topic}:** {block.text}"
    elif isinstance(block, tuple):
        yield "\n".join(f"- {line}" for line in block)
    else:
        yield block


def figures(chart: Chart) -> DataTable:
    """Return the figures of a chart as a table."""
    names = [f"{name}, {chart.unit}" for name in chart.bar_names] or [chart.unit]
    notes = any(row.note for row in chart.rows)
    rows = [[row.label, *map(_figure, row.bars), *([row.note] if notes else [])] for row in chart.rows]
    if chart.line is not None:
        rows.append([chart.line_name, str(chart.line)])
    return DataTable(["", *names, *([""] if notes else [])], rows)


def _figure(bar: Bar | None) -> str:
    return f"{SYMBOLS[bar.mark]}{bar.spread}" if bar else "-"


def _grid(grid: DataTable) -> str:
    width = len(grid.headings)
    align = ["---", *(["---" if grid.words else "---:"] * (width - 1))]
    padded = [[*row, *[""] * (width - len(row))] for row in grid.rows]
    lines = [grid.headings, align, *padded]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: Cell) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")

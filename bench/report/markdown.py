"""A report as Markdown: the text and tables of the page; charts become tables of figures with their notes."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import Block, DataTable, Document


def render(document: Document) -> str:
    """Return the Markdown text."""
    return "\n\n".join(_parts(document)) + "\n"


def _parts(document: Document) -> Iterator[str]:
    yield f"# {document.title}"
    for section in document.sections:
        yield f"## {section.title}"
        for block in section.blocks:
            yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Chart):
        yield f"### {block.title}"
        yield block.how_to_read
        yield _grid(_chart_grid(block))
    elif isinstance(block, DataTable):
        yield _grid(block)
    elif isinstance(block, tuple):
        yield "\n".join(f"- {line}" for line in block)
    else:
        yield block


def _chart_grid(chart: Chart) -> DataTable:
    stacked = any(len(bar.parts) > 1 for row in chart.rows for bar in row.drawn)
    names = (
        [chart.unit] if stacked or not chart.series else [f"{name}, {chart.unit}" for name in chart.series]
    )
    rows = [[row.label, *(str(bar.spread) if bar else "-" for bar in row.bars)] for row in chart.rows]
    if chart.line is not None:
        rows.append([chart.line_name, str(chart.line)])
    return DataTable(["", *names], rows)


def _grid(grid: DataTable) -> str:
    width = len(grid.headings)
    align = ["---", *(["---" if grid.words else "---:"] * (width - 1))]
    padded = [[*row, *[""] * (width - len(row))] for row in grid.rows]
    lines = [grid.headings, align, *padded]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

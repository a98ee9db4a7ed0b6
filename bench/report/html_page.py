"""A report as one self-contained HTML page: no script, no font, no external image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from tunnel.bench.report.charts import STYLE, Chart
from tunnel.bench.report.document import RANGE, Block, Cell, Claim, DataTable, Document, Marked, Section
from tunnel.bench.report.page_style import PAGE_STYLE


def render(document: Document) -> str:
    """Return the HTML text."""
    title = escape(document.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}{PAGE_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{"".join(_sections(document))}</body>
</html>
"""


def _sections(document: Document) -> Iterator[str]:
    """Yield the sections; a list of the others follows one without a title."""
    for number, section in enumerate(document.sections):
        if section.title:
            yield f'<h2 id="s{number}">{escape(section.title)}</h2>\n'
        yield from _blocks(section)
        if not section.title:
            yield _contents(document)


def _contents(document: Document) -> str:
    links = (
        f'<li><a href="#s{number}">{escape(section.title)}</a></li>'
        for number, section in enumerate(document.sections)
        if section.title
    )
    return f"<nav><ul>{''.join(links)}</ul></nav>\n"


def _blocks(section: Section) -> Iterator[str]:
    charts: list[str] = []
    for block in section.blocks:
        if isinstance(block, Chart):
            charts.append(_chart(block))
            continue
        yield from _beside_each_other(charts)
        charts = []
        yield _block(block)
    yield from _beside_each_other(charts)


def _beside_each_other(charts: list[str]) -> Iterator[str]:
    if charts:
        yield f'<div class="charts">\n{"".join(charts)}</div>\n'


def _block(block: Block) -> str:
    if isinstance(block, DataTable):
        return _grid(block)
    if isinstance(block, Claim):
        return f'<p class="claim {block.tone}"><b>{escape(block.topic)}</b> {escape(block.text)}</p>\n'
    if isinstance(block, tuple):
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block)}</ul>\n"
    return f"<p>{escape(str(block))}</p>\n"


def _chart(chart: Chart) -> str:
    kind = "p" if chart.is_stacked else "s"
    key = [
        f'<span><i class="{kind}{number % 6}"></i>{escape(name)}</span>'
        for number, name in enumerate(chart.series)
    ]
    if chart.bars:
        key.append(f"<span>bars from the top: {escape(', '.join(chart.bars))}</span>")
    if chart.line is not None:
        key.append(f'<span><i class="line"></i>{escape(chart.line_name)} {chart.line}</span>')
    legend = f'<p class="key">{"".join(key)}</p>' if key else ""
    return (
        f"<figure><h3>{escape(chart.title)}, {escape(chart.unit)}</h3>"
        f"{legend}{chart.svg()}"
        f"<figcaption>{escape(chart.how_to_read)}</figcaption></figure>\n"
    )


def _grid(grid: DataTable) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in grid.headings)
    body = "".join(f"<tr>{''.join(_cells(grid, row))}</tr>" for row in grid.rows)
    kind = ' class="words"' if grid.words else ""
    top = f"<thead><tr>{head}</tr></thead>" if any(grid.headings) else ""
    return f"<table{kind}>{top}<tbody>{body}</tbody></table>\n"


def _cells(grid: DataTable, row: Sequence[Cell]) -> Iterator[str]:
    """Yield the cells; each but the first has its heading as a label, for narrow screens."""
    for number, cell in enumerate(row):
        heading = grid.headings[number] if number else ""
        label = f' data-label="{escape(heading, quote=True)}"' if heading else ""
        text = RANGE.sub(r"<small>\1</small>", escape(str(cell)))
        kind, tone = ("b", f' class="{cell.tone}"') if isinstance(cell, Marked) else ("span", "")
        yield f"<td{label}><{kind}{tone}>{text}</{kind}></td>"

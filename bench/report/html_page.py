"""A report as one self-contained HTML page: no script, no font, no external image."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tunnel.bench.report.charts import STYLE, Chart
from tunnel.bench.report.document import Block, DataTable, Document

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 12px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0; font-size: 1rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 12px; }
figure { margin: 0; padding: 8px 0; background: var(--card); border-radius: 6px; min-width: 0; }
figure > h3, figure > p, figcaption { padding: 0 8px; margin: 0; }
figcaption { color: var(--soft); font-size: .875rem; }
svg { display: block; width: 100%; max-width: 560px; height: auto; }
.key { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: .875rem; }
.key i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; }
.key i.line { height: 0; width: 18px; border-top: 2px dashed #cf222e; vertical-align: middle; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .words th, .words td { text-align: left; } .words td { white-space: normal; }
"""


def render(document: Document) -> str:
    """Return the HTML text."""
    title = escape(document.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{"".join(_sections(document))}</body>
</html>
"""


def _sections(document: Document) -> Iterator[str]:
    for section in document.sections:
        yield f"<h2>{escape(section.title)}</h2>\n"
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
    if isinstance(block, tuple):
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block)}</ul>\n"
    return f"<p>{escape(str(block))}</p>\n"


def _chart(chart: Chart) -> str:
    key = [
        f'<span><i class="s{number % 6}"></i>{escape(name)}</span>'
        for number, name in enumerate(chart.series)
    ]
    if chart.line is not None:
        key.append(f'<span><i class="line"></i>{escape(chart.line_name)} {chart.line}</span>')
    return (
        f"<figure><h3>{escape(chart.title)}, {escape(chart.unit)}</h3>"
        f'<p class="key">{"".join(key)}</p>{chart.svg()}'
        f"<figcaption>{escape(chart.how_to_read)}</figcaption></figure>\n"
    )


def _grid(grid: DataTable) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in grid.headings)
    rows = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in grid.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    kind = ' class="words"' if grid.words else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>\n'

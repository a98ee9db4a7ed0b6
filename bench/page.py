"""A report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tunnel.bench.charts import Chart
from tunnel.bench.document import Block, Document, Grid

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #59636e; --line: #d1d9e0; --paper: #fff;
  --card: #f6f8fa;
  --ours: #0550ae; --c0: #2f81c7; --c1: #9ec9ec; --c2: #d98324; --c3: #f0c38c; --c4: #5d9e52; --c5: #b4d6ac; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --paper: #0d1117;
  --card: #151b23; --ours: #79c0ff; --c0: #4493d6; --c1: #23496b; --c2: #c9772b; --c3: #6e4519; --c4: #4f8f46;
  --c5: #2b5227; } }
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
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .ours { font-weight: 700; fill: var(--ours); }
svg .value { text-anchor: end; } svg .tick { text-anchor: middle; fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .spread { stroke: var(--ink); fill: none; }
svg .mark { stroke: #cf222e; stroke-dasharray: 4 3; stroke-width: 1.5; }
svg .band { fill: #cf222e; opacity: .15; }
.key { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: .875rem; }
.key i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; }
.key i.line { height: 0; width: 18px; border-top: 2px dashed #cf222e; vertical-align: middle; }
.s0 { fill: var(--c0); background: var(--c0); } .s1 { fill: var(--c1); background: var(--c1); }
.s2 { fill: var(--c2); background: var(--c2); } .s3 { fill: var(--c3); background: var(--c3); }
.s4 { fill: var(--c4); background: var(--c4); } .s5 { fill: var(--c5); background: var(--c5); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .words th, .words td { text-align: left; } .words td { white-space: normal; }
"""


def render(document: Document) -> str:
    """Return the text of the page."""
    title = escape(document.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
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
    if isinstance(block, Grid):
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


def _grid(grid: Grid) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in grid.headings)
    rows = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in grid.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    kind = ' class="words"' if grid.words else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>\n'

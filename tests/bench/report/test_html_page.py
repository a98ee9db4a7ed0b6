"""The page in a browser, on a phone and on a desktop; and that a broken page is detected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bench import samples
from tests.bench.browser import Seen, open_page
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report import html_page
from tunnel.bench.report.charts import Bar, Chart, Row
from tunnel.bench.report.contents import build
from tunnel.bench.report.document import DataTable, Document, Section
from tunnel.bench.report.result_file import read_all

CHART = Chart("Speed", "GiB/s", [Row("x", [Bar.of(Spread(1.0, 0.5, 2.0))])], "Longer is better.")
SMALL = Document(
    "small", [Section("one", ["words", ("first", "second"), DataTable(["", "n"], [["x", "1"]]), CHART])]
)


def _report(tmp: Path) -> Document:
    return build(read_all([samples.relay(tmp), samples.memory(tmp), samples.migrate(tmp)]))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_every_chart_without_console_messages(tmp: Path, width: int) -> None:
    document = _report(tmp)
    charts = [block for section in document.sections for block in section.blocks if isinstance(block, Chart)]
    assert len(charts) > 12
    seen = open_page(html_page.render(document), tmp, width)
    assert seen.complaints == []
    assert seen.found["loads"] == []
    assert seen.found["innerWidth"] == width
    assert seen.found["scrollWidth"] <= width
    assert len(seen.found["charts"]) == len(charts)
    for chart, drawn in zip(charts, seen.found["charts"], strict=True):
        assert drawn["bars"] == sum(len(bar.parts) for row in chart.rows for bar in row.drawn), drawn["name"]
        assert drawn["spreads"] == sum(len(row.drawn) for row in chart.rows)
        assert drawn["outside"] == []
        assert drawn["painted"]
        assert drawn["width"] >= 350
        assert drawn["textHeight"] >= 12  # pixels


@pytest.mark.slow
def test_a_broken_page_is_detected(tmp: Path) -> None:
    spoilt = html_page.render(SMALL).replace(
        "</h1>",
        '</h1><div style="width:2000px">wide</div><script>nothing.here()</script>'
        '<img src="http://unreachable.invalid/x.png">',
    )
    seen: Seen = open_page(spoilt.replace('class="bar', 'width="0" class="bar'), tmp, 390)
    assert seen.found["scrollWidth"] > 1000
    assert any("nothing is not defined" in complaint for complaint in seen.complaints)
    assert seen.found["loads"] == ["http://unreachable.invalid/x.png"]
    assert seen.found["charts"][0]["bars"] == 0


def test_the_page_is_self_contained(tmp: Path) -> None:
    text = html_page.render(_report(tmp))
    assert re.findall(r"<(?:script|link|img|iframe|object|embed)|(?:src|href|@import|url\()[=( ]", text) == []
    assert "http" not in text.replace("https://haproxy.org", "")


def test_the_content_of_files_is_escaped(tmp: Path) -> None:
    text = html_page.render(build(read_all([samples.relay(tmp)])))
    assert "<b>none</b>" not in text
    assert "&lt;b&gt;none&lt;/b&gt;" in text
    assert "rocket &amp; co not installed" in text


def test_every_kind_of_block_has_its_form() -> None:
    text = html_page.render(SMALL)
    for expected in (
        "<title>small</title>",
        "<h2>one</h2>",
        "<p>words</p>",
        "<ul><li>first</li><li>second</li></ul>",
        "<td>x</td><td>1</td>",
        "<figcaption>Longer is better.</figcaption>",
    ):
        assert expected in text


def test_a_chart_names_its_series_and_its_goal() -> None:
    two = Row("x", [Bar.of(Spread(1, 1, 1)), Bar.of(Spread(2, 2, 2))])
    chart = Chart("Speed", "GiB/s", [two], "how", series=("one", "four"), line=Spread(3, 3, 3))
    text = html_page.render(Document("t", [Section("s", [chart])]))
    assert '<i class="s0"></i>one' in text
    assert '<i class="s1"></i>four' in text
    assert '<i class="line"></i>floor 3.00 (3.00-3.00)' in text

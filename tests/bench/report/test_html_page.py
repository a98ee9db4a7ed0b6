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
from tunnel.bench.report.document import Block, Claim, DataTable, Document, Marked, Section
from tunnel.bench.report.result_file import read_all

DATA = Path(__file__).resolve().parents[3] / "bench" / "data"
CHART = Chart("Speed", "GiB/s", [Row("x", [Bar.of(Spread(1.0, 0.5, 2.0))])], "Longer is better.")


def _rendered(*blocks: Block, title: str = "one") -> str:
    return html_page.render(Document("small", [Section(title, blocks)]))


def _report(tmp: Path) -> Document:
    return build(read_all([*samples.every(tmp), *sorted(DATA.glob("*-goals.jsonl"))[-2:]]))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_whole_page(tmp: Path, width: int) -> None:
    document = _report(tmp)
    charts = [block for section in document.sections for block in section.blocks if isinstance(block, Chart)]
    assert len(charts) > 20
    seen = open_page(html_page.render(document), tmp, width)
    assert seen.complaints == []
    assert seen.found["loads"] == []
    assert seen.found["innerWidth"] == width
    assert seen.found["scrollWidth"] <= width
    assert seen.found["wide"] == []
    assert seen.found["clipped"] == []
    assert len(seen.found["charts"]) == len(charts)
    for chart, drawn in zip(charts, seen.found["charts"], strict=True):
        assert drawn["bars"] == sum(len(bar.parts) for row in chart.rows for bar in row.drawn), drawn["name"]
        assert drawn["spreads"] == sum(len(row.drawn) for row in chart.rows)
        assert drawn["outside"] == []
        assert drawn["collisions"] == [], drawn["name"]
        assert drawn["painted"]
        assert drawn["width"] >= 350
        assert drawn["textHeight"] >= 12  # pixels


@pytest.mark.slow
def test_a_broken_page_is_detected(tmp: Path) -> None:
    long = Row(
        "a name that is nearly as wide as a chart",
        CHART.rows[0].bars,
        note="a note that is too long beside it",
    )
    spoilt = _rendered(Chart("Speed", "GiB/s", [long], "how")).replace(
        "</h1>",
        '</h1><div style="width:2000px">wide</div><script>nothing.here()</script>'
        '<p style="width:60px; overflow:hidden; white-space:nowrap">cut off at the right</p>'
        '<p style="height:9px; overflow:hidden">cut off below</p>'
        '<img src="http://unreachable.invalid/x.png">',
    )
    seen: Seen = open_page(spoilt.replace('class="bar', 'width="0" class="bar'), tmp, 390)
    assert seen.found["scrollWidth"] > 1000
    assert seen.found["wide"] == ["DIV wide"]
    assert seen.found["clipped"] == ["P cut off at the right", "P cut off below"]
    assert any("nothing is not defined" in complaint for complaint in seen.complaints)
    assert seen.found["loads"] == ["http://unreachable.invalid/x.png"]
    assert seen.found["charts"][0]["bars"] == 0
    assert seen.found["charts"][0]["collisions"] == [long.label, long.note]


def test_the_page_is_self_contained(tmp: Path) -> None:
    text = html_page.render(_report(tmp))
    assert re.findall(r"<(?:script|link|img|iframe|object|embed)|(?:src|@import|url\()[=( ]", text) == []
    assert set(re.findall(r'href="(.)', text)) == {"#"}
    assert "http" not in text.replace("https://haproxy.org", "")


def test_the_content_of_files_is_escaped(tmp: Path) -> None:
    text = html_page.render(build(read_all([samples.relay(tmp)])))
    assert "<b>none</b>" not in text
    assert "&lt;b&gt;none&lt;/b&gt;" in text
    assert "rocket &amp; co not installed" in text


def test_every_kind_of_block_has_its_form() -> None:
    table = DataTable(["", "n", "verdict"], [["x", "1.50 (1.00-2.00)", Marked("met", "good")]])
    text = _rendered("words", ("first", "second"), Claim("Speed", "won", "good"), table, CHART)
    for expected in (
        "<title>small</title>",
        '<h2 id="s0">one</h2>',
        "<p>words</p>",
        "<ul><li>first</li><li>second</li></ul>",
        '<p class="claim good"><b>Speed</b> won</p>',
        '<td data-label="n"><span>1.50 <small>(1.00-2.00)</small></span></td>',
        '<td data-label="verdict"><b class="good">met</b></td>',
        "<figcaption>Longer is better.</figcaption>",
    ):
        assert expected in text


def test_the_contents_follow_a_section_without_a_title() -> None:
    sections = [Section("", ["answer"]), Section("a & b", ["details"])]
    text = html_page.render(Document("t", sections))
    assert '<p>answer</p>\n<nav><ul><li><a href="#s1">a &amp; b</a></li></ul></nav>\n<h2 id="s1">' in text
    assert "<nav>" not in _rendered("words")


def test_a_chart_names_its_series_and_its_floor() -> None:
    two = Row("x", [Bar.of(Spread(1, 1, 1)), Bar.of(Spread(2, 2, 2))])
    text = _rendered(Chart("Speed", "GiB/s", [two], "how", series=("one", "four"), line=Spread(3, 3, 3)))
    assert '<i class="s0"></i>one' in text
    assert '<i class="s1"></i>four' in text
    assert '<i class="line"></i>floor 3.00 (3.00-3.00)' in text


def test_a_chart_of_stacked_bars_names_parts_and_bars() -> None:
    two = Row("x", [Bar([1, 2], Spread(3, 3, 3)), Bar([2, 3], Spread(5, 5, 5))])
    text = _rendered(Chart("CPU", "s", [two], "how", series=("mine", "theirs"), bars=("new", "old")))
    assert '<i class="p0"></i>mine' in text
    assert "bars from the top: new, old" in text

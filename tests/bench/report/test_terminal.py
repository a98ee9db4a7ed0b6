"""A report on a terminal: every block is printed, nothing is cut off."""

from __future__ import annotations

import io

from rich.console import Console

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Bar, Chart, Row
from tunnel.bench.report.document import Block, Claim, DataTable, Document, Marked, Section
from tunnel.bench.report.terminal import render

TWO = Spread(2.0, 1.0, 3.0)


def _printed(*blocks: Block, width: int = 100, colours: bool = False) -> str:
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=colours, color_system="standard" if colours else None
    )
    console.print(render(Document("", [Section("Results", blocks)])))
    return output.getvalue()


def test_words_claims_and_lists() -> None:
    text = _printed("some words", Claim("Speed", "won", "good"), ("first", "second"))
    for expected in ("\nResults\n", "some words\n", "Speed: won\n", "- first\n- second\n"):
        assert expected in text


def test_verdicts_have_colours() -> None:
    table = DataTable(["goal", "verdict"], [["a", Marked("met", "good")], ["b", Marked("missed", "bad")]])
    text = _printed(table, colours=True)
    assert "\x1b[32m    met" in text
    assert "\x1b[31m missed" in text


def test_a_table_that_is_too_wide_has_medians_only() -> None:
    table = DataTable(
        ["contestant", "figure", "goal"], [["mtunnel", "1309.00 (1236.53-1392.05) ms", "< 2000"]]
    )
    assert "1309.00 (1236.53-1392.05) ms  < 2000" in _printed(table)
    assert "mtunnel     1309.00 ms  < 2000" in _printed(table, width=40)


def test_long_text_continues_on_the_next_line() -> None:
    table = DataTable(["goal", "verdict"], [["a", Marked("not measured: a program is missing", "unclear")]])
    text = _printed(table, width=20)
    assert "…" not in text
    assert "missing" in text


def test_a_chart_that_is_too_wide_has_shorter_bars_and_medians_only() -> None:
    chart = Chart("Speed", "GiB/s", [Row("mtunnel", [Bar([2.0], TWO, "best")])], "how")
    assert f"mtunnel    {'█' * 16}  ★ 2.00 (1.00-3.00)" in _printed(chart)
    short = _printed(chart, width=30)
    assert f"mtunnel    {'█' * 8}  ★ 2.00" in short
    assert "(1.00" not in short


def test_a_chart_has_a_line_for_each_bar() -> None:
    rows = [
        Row("mtunnel", [Bar([2.0], TWO, "loses"), None], is_ours=True, note="0.50 times best rival"),
        Row("rival", [Bar([4.0], TWO.times(2), "best"), Bar([1.0], TWO.times(0.5))], note="best rival"),
    ]
    chart = Chart("Speed", "GiB/s", rows, "how", series=("one", "four"), line=Spread(1, 1, 1))
    lines = [line.split() for line in _printed(chart).splitlines()]
    assert ["Speed,", "GiB/s"] in lines
    note = ["0.50", "times", "best", "rival"]
    assert ["mtunnel", "one", "█" * 8, "▼", "2.00", "(1.00-3.00)", *note] in lines
    assert ["rival", "one", "█" * 16, "★", "4.00", "(2.00-6.00)", "best", "rival"] in lines
    assert ["four", "█" * 4, "1.00", "(0.50-1.50)", "best", "rival"] in lines
    assert ["floor", "1.00", "(1.00-1.00)"] in lines


def test_a_chart_of_nothing_is_its_title() -> None:
    assert "Speed, GiB/s" in _printed(Chart("Speed", "GiB/s", [], "how"))

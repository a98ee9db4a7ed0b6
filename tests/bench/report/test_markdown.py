"""The summary as Markdown: every block is rendered, and no text breaks a table."""

from __future__ import annotations

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Bar, Chart, Row
from tunnel.bench.report.document import Block, Claim, DataTable, Document, Marked, Section
from tunnel.bench.report.markdown import render

ONE = Bar.of(Spread(1.0, 0.5, 2.0))


def _rendered(*blocks: Block) -> str:
    return render(Document("title", [Section("one", blocks)])).removeprefix("# title\n\n## one\n\n")


def test_words_and_lists() -> None:
    assert _rendered("words", ("first", "second")) == "words\n\n- first\n- second\n"


def test_figures_stand_at_the_right_and_words_at_the_left() -> None:
    assert _rendered(DataTable(["a", "b"], [["x", "1"]])) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    assert "| --- | --- |" in _rendered(DataTable(["a", "b"], [["x", "y"]], words=True))


def test_no_text_breaks_a_table() -> None:
    assert "| a\\|b | two lines |" in _rendered(DataTable(["x", "y"], [["a|b", "two\nlines"]]))


def test_a_chart_becomes_its_figures_and_notes() -> None:
    chart = Chart("Speed", "GiB/s", [Row("x", [ONE, None])], "Longer is better.", series=("one", "four"))
    assert _rendered(chart) == (
        "### Speed\n\nLonger is better.\n\n"
        "|  | one, GiB/s | four, GiB/s |\n| --- | ---: | ---: |\n| x | 1.00 (0.50-2.00) | - |\n"
    )


def test_a_claim_and_a_verdict_are_text() -> None:
    assert _rendered(Claim("Speed", "won", "good")) == "**Speed:** won\n"
    assert "| x | met |" in _rendered(DataTable(["a", "b"], [["x", Marked("met", "good")]]))


def test_a_section_without_a_title_has_no_heading() -> None:
    assert render(Document("title", [Section("", ["words"])])) == "# title\n\nwords\n"


def test_marks_and_notes_are_shown() -> None:
    best = Bar([1.0], Spread(1.0, 1.0, 1.0), "best")
    chart = Chart("Speed", "GiB/s", [Row("x", [best], note="best rival"), Row("y", [ONE])], "how")
    assert _rendered(chart).endswith(
        "|  | GiB/s |  |\n| --- | ---: | ---: |\n"
        "| x | ★ 1.00 (1.00-1.00) | best rival |\n| y | 1.00 (0.50-2.00) |  |\n"
    )


def test_stacked_parts_are_shown_as_their_sum_and_the_line_as_a_row() -> None:
    stacked = Row("x", [Bar([0.25, 0.75], Spread(1.0, 1.0, 1.0))])
    chart = Chart("CPU", "s/GiB", [stacked], "Shorter.", series=("A", "B"), line=Spread(3.0, 3.0, 3.0))
    assert _rendered(chart).endswith(
        "|  | s/GiB |\n| --- | ---: |\n| x | 1.00 (1.00-1.00) |\n| floor | 3.00 (3.00-3.00) |\n"
    )

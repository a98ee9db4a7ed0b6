"""Charts: lengths in proportion, spreads, gaps where nothing was measured, and readable numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Bar, Chart, Row, figure


def _spread(value: float) -> Spread:
    return Spread(value, value / 2, value * 2)


def _drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.svg())


def _chart(*rows: Row, **more: object) -> Chart:
    return Chart("Speed", "GiB/s", rows, "Longer is better.", **more)  # type: ignore[arg-type]  # as the caller says


def _widths(svg: ET.Element) -> list[float]:
    return [float(e.attrib["width"]) for e in svg.iter("rect") if e.attrib["class"].startswith("bar")]


def test_bars_are_as_long_as_their_medians() -> None:
    svg = _drawn(_chart(Row("x", [Bar.of(_spread(1.0))]), Row("y", [Bar.of(_spread(4.0))])))
    short, long = _widths(svg)
    assert long == pytest.approx(4 * short, rel=0.02)
    assert long == pytest.approx(296 / 2, rel=0.02)  # the highest round, twice as much, takes all the room


def test_parts_follow_each_other() -> None:
    svg = _drawn(_chart(Row("x", [Bar([1.0, 3.0], Spread(4.0, 4.0, 4.0))])))
    first, second = [e.attrib for e in svg.iter("rect") if e.attrib["class"].startswith("bar")]
    assert float(second["x"]) == pytest.approx(float(first["x"]) + float(first["width"]), abs=0.2)
    assert (first["class"], second["class"]) == ("bar p0", "bar p1")
    assert float(second["width"]) == pytest.approx(3 * float(first["width"]), rel=0.02)


def test_a_spread_reaches_from_the_lowest_to_the_highest() -> None:
    svg = _drawn(_chart(Row("x", [Bar.of(Spread(1.0, 0.5, 2.0))])))
    (path,) = [e.attrib["d"] for e in svg.iter("path")]
    left, right = (float(x) for x in re.findall(r"M([\d.]+) [\d.]+v", path))
    assert right - left == pytest.approx(296 * 0.75, abs=0.5)


def test_missing_bars_leave_a_gap_and_the_others_keep_their_colour() -> None:
    row = Row("x", [Bar.of(_spread(1.0)), None, Bar.of(_spread(1.0))])
    bars = [e.attrib for e in _drawn(_chart(row, series=("one", "four", "many"))).iter("rect")]
    assert [bar["class"] for bar in bars] == ["bar s0", "bar s2"]
    assert float(bars[1]["y"]) - float(bars[0]["y"]) == 28


def test_without_series_the_bars_of_ours_have_their_own_colour() -> None:
    svg = _drawn(_chart(Row("us", [Bar.of(_spread(1.0))], is_ours=True), Row("x", [Bar.of(_spread(1.0))])))
    assert [e.attrib["class"] for e in svg.iter("rect")] == ["bar mine", "bar theirs"]


def test_verdicts_are_symbols_as_well_as_colours() -> None:
    best, lost = (Bar([1.0], Spread(1.0, 1.0, 1.0), mark) for mark in ("best", "loses"))
    svg = _drawn(_chart(Row("x", [best]), Row("us", [lost], note="0.50 times best rival", note_mark="loses")))
    texts = [(e.attrib["class"], e.text) for e in svg.iter("text") if "value" in e.attrib["class"]]
    assert texts == [
        ("value best", "★ 1.00"),
        ("value note loses", "0.50 times best rival"),
        ("value loses", "▼ 1.00"),
    ]


def test_the_bars_of_a_row_have_names() -> None:
    one, parts = Bar.of(_spread(1.0)), Bar([1.0, 2.0], _spread(3.0))
    assert _chart(Row("x", [one, one]), series=("one", "four")).bar_names == ("one", "four")
    assert _chart(Row("x", [parts]), series=("A", "B")).bar_names == ()
    assert _chart(Row("x", [parts] * 2), series=("A", "B"), bars=("new", "old")).bar_names == ("new", "old")


def test_the_line_of_the_goal_is_drawn_with_its_spread() -> None:
    svg = _drawn(_chart(Row("x", [Bar.of(_spread(1.0))]), line=Spread(2.0, 1.0, 4.0)))
    (band,) = [e.attrib for e in svg.iter("rect") if e.attrib["class"] == "band"]
    (mark,) = [e.attrib for e in svg.iter("line") if e.attrib["class"] == "mark"]
    assert float(band["width"]) == pytest.approx(296 * 0.75, abs=0.5)
    assert float(mark["x1"]) == pytest.approx(8 + 296 / 2)


def test_names_are_text_and_ours_stands_out() -> None:
    svg = _drawn(
        _chart(Row("a <b> & c", [Bar.of(_spread(1.0))]), Row("us", [Bar.of(_spread(1.0))], is_ours=True))
    )
    names = [(e.text, e.attrib["class"]) for e in svg.iter("text") if e.attrib["class"].startswith("name")]
    assert names == [("a <b> & c", "name"), ("us", "name ours")]
    assert svg.attrib["aria-label"] == "Speed, GiB/s: a <b> & c 1.00, us 1.00"


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [(0.07, ["0", "0.02", "0.04", "0.06"]), (3.3, ["0", "1", "2", "3"]), (900.0, ["0", "500"])],
)
def test_ticks_are_round_numbers(highest: float, ticks: list[str]) -> None:
    svg = _drawn(_chart(Row("x", [Bar.of(Spread(highest, highest, highest))])))
    assert [e.text for e in svg.iter("text") if e.attrib["class"] == "tick"] == ticks


def test_bars_of_nothing_are_still_a_chart() -> None:
    assert _widths(_drawn(_chart(Row("x", [Bar.of(Spread(0.0, 0.0, 0.0))])))) == [0.5]


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.34, "12.3"), (1234.5, "1234")])
def test_figures_keep_their_significant_digits(value: float, text: str) -> None:
    assert figure(value) == text

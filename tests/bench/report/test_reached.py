"""One figure and its verdict."""

from __future__ import annotations

import pytest

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.document import Marked
from tunnel.bench.report.reached import HEADINGS, Reached, tone_of


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (0.6, True, "as aimed at"),
        (0.8, True, "met"),
        (1.0, True, "met"),
        (1.1, True, "missed"),
        (0.9, False, "missed"),
        (1.0, False, "met"),
    ],
)
def test_the_median_decides(value: float, at_most: bool, verdict: str) -> None:
    aim = 0.7 if at_most else 2.0
    assert Reached("x", Spread(value, 0.0, 9.0), 1.0, aim, at_most=at_most).verdict == verdict
    assert Reached("x", Spread(value, 0.0, 9.0), 1.0, None, at_most=at_most).verdict in (verdict, "met")


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert Reached("x", None, 1.0, 0.5).verdict == "not measured"
    other = Reached("x", Spread(0.1, 0.1, 0.1), 1.0, 0.5, reason="HAProxy is on OpenSSL 3.0 here")
    assert other.verdict == "not measured: HAProxy is on OpenSSL 3.0 here"
    assert other.cells()[1] == "-"


def test_a_row_has_a_cell_for_each_heading() -> None:
    spread = Spread(3.0, 2.0, 4.0)
    row = Reached("wait", spread, 4.0, 1.0, " ms", where="one stream", run="Debian 12, today").cells()
    assert len(row) == len(HEADINGS)
    found = "3.00 (2.00-4.00) ms"
    assert row[:4] == ["wait, one stream", found, "≤ 4 ms", "≤ 1 ms"]
    assert row[4:] == [Marked("met", "good"), "Debian 12, today"]
    share = Reached("share", None, 1 / 6, None, at_most=False).cells()
    assert share == ["share", "-", "≥ 0.167", "better", Marked("not measured", "unclear"), "-"]


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [("met", "good"), ("as aimed at", "good"), ("missed", "bad"), ("no goal: QEMU is 7.2 here", "unclear")],
)
def test_a_verdict_has_a_tone(verdict: str, tone: str) -> None:
    assert tone_of(verdict) == tone

"""Medians, spreads and ratios."""

from __future__ import annotations

import pytest

from tunnel.bench.measure.stats import Spread, ratio


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert Spread.of([3.0, 1.0, 9.0]) == Spread(median=3.0, low=1.0, high=9.0)


def test_the_median_of_an_even_count_lies_between() -> None:
    assert Spread.of([1.0, 2.0, 4.0, 9.0]).median == 3.0


def test_the_median_comes_first_in_the_text() -> None:
    assert str(Spread(1.0, 0.5, 2.25)) == "1.00 (0.50-2.25)"


def test_a_spread_can_be_converted_to_another_unit() -> None:
    assert Spread(0.5, 0.25, 1.0).times(1000) == Spread(500.0, 250.0, 1000.0)


def test_a_file_holds_rounded_numbers() -> None:
    assert Spread(1 / 3, 0.0, 1.0).as_dict() == {"median": 0.3333, "low": 0.0, "high": 1.0}


def test_a_ratio_compares_each_round_with_the_same_round_of_the_base() -> None:
    # The machine was four times slower in round 2: this affects both and cancels out.
    found = ratio({1: 1.0, 2: 4.0, 3: 1.0}, {1: 2.0, 2: 8.0, 3: 2.0})
    assert found == Spread(0.5, 0.5, 0.5)


def test_a_ratio_uses_only_the_rounds_that_both_have() -> None:
    assert ratio({1: 1.0, 2: 9.0}, {1: 2.0, 3: 1.0}) == Spread(0.5, 0.5, 0.5)


@pytest.mark.parametrize("base", [{}, {2: 1.0}, {1: 0.0}])
def test_without_a_base_there_is_no_ratio(base: dict[int, float]) -> None:
    assert ratio({1: 1.0}, base) is None

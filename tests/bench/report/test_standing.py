"""Bars and notes of charts: the best that encrypts, and mtunnel against the best rival."""

from __future__ import annotations

import pytest

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.standing import Advantage, Entrant, Values, advantage, joined, rows, standing


def _entrant(name: str, *figures: Values | None, encrypts: bool = True) -> Entrant:
    return Entrant(name, name.upper(), encrypts, figures)


OURS = _entrant("mtunnel", {1: 2.0, 2: 4.0})
SLOW = _entrant("mtunnel-slow", {1: 0.5, 2: 1.0})
RIVAL = _entrant("rival", {1: 1.0, 2: 3.0})
WORSE = _entrant("worse", {1: 0.1, 2: 0.1})
PLAIN = _entrant("plain", {1: 9.0, 2: 9.0}, encrypts=False)


@pytest.mark.parametrize(
    ("low", "high", "least_is_best", "mark"),
    [
        (1.1, 1.3, False, "wins"),
        (1.1, 1.3, True, "loses"),
        (0.5, 0.9, True, "wins"),
        (0.5, 0.9, False, "loses"),
        (0.9, 1.1, False, "level"),
        (1.0, 1.1, True, "level"),
    ],
)
def test_a_win_is_one_in_every_round(low: float, high: float, least_is_best: bool, mark: str) -> None:
    assert standing(Spread(1.0, low, high), least_is_best=least_is_best) == mark


def test_the_best_and_the_best_rival_are_marked() -> None:
    found = rows([PLAIN, SLOW, OURS, WORSE, RIVAL], least_is_best=False)
    assert [(row.label, row.drawn[0].mark, row.note, row.note_mark) for row in found] == [
        ("PLAIN", "", "not encrypted", ""),
        ("MTUNNEL-SLOW", "loses", "0.42 times best rival", "loses"),
        ("MTUNNEL", "best", "1.67 times best rival", "wins"),
        ("WORSE", "", "", ""),
        ("RIVAL", "", "best rival", ""),
    ]
    assert [row.is_ours for row in found] == [False, True, True, False, False]


def test_of_costs_the_least_is_the_best() -> None:
    found = rows([SLOW, OURS, RIVAL], least_is_best=True)
    assert [row.drawn[0].mark for row in found] == ["best", "loses", ""]
    assert found[0].note_mark == "wins"


def test_each_series_has_its_own_best() -> None:
    two = [_entrant("mtunnel", {1: 1.0}, {1: 3.0}), _entrant("rival", {1: 2.0}, {1: 2.0})]
    first, second = rows(two, least_is_best=False)
    assert [[bar.mark for bar in row.drawn] for row in (first, second)] == [["loses", "best"], ["best", ""]]
    assert (first.note, second.note) == ("", "")


def test_without_a_rival_nothing_is_compared() -> None:
    (row,) = rows([OURS, _entrant("rival", None)], least_is_best=False)
    assert (row.drawn[0].mark, row.note) == ("best", "")
    assert advantage([OURS, PLAIN], least_is_best=False) is None
    assert advantage([OURS, _entrant("rival", {3: 1.0})], least_is_best=False) is None
    assert rows([], least_is_best=True) == []


def test_the_best_of_both_are_compared_within_a_round() -> None:
    entrants = [SLOW, OURS, WORSE, _entrant("rival", {1: 1.0, 2: 4.0, 3: 9.0})]
    assert advantage(entrants, least_is_best=False) == Advantage(entrants[3], Spread(1.5, 1.0, 2.0))
    assert advantage(entrants, least_is_best=True) == Advantage(WORSE, Spread(7.5, 5.0, 10.0))


def test_groups_become_series_in_the_order_of_the_first() -> None:
    split = Entrant("mtunnel", "us", True, [{1: 3.0}], [(1.0, 2.0)])
    found = joined([[PLAIN, split], [split, RIVAL]])
    assert [entrant.name for entrant in found] == ["plain", "mtunnel", "rival"]
    assert [[bool(figures) for figures in entrant.figures] for entrant in found] == [
        *([True, False], [True, True], [False, True]),
    ]
    assert found[1].parts == [(1.0, 2.0), (1.0, 2.0)]
    assert found[2].parts == ()

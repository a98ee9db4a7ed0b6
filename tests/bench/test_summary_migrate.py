"""Ours against each rival, within the same round and setting; where a rival is better is said."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.test_migration import LIMIT, MOVED
from tunnel.bench.figures import GIB, MIB, Spread
from tunnel.bench.migrate import Moved
from tunnel.bench.migration import Migration
from tunnel.bench.results import Results
from tunnel.bench.summary_migrate import GOALS, compare, losses, table


def moved(mode: str, number: int, seconds: float, **changes: object) -> Migration:
    """Of a guest and over a link that goals are about, if ``changes`` does not say otherwise."""
    setting = {"guest_bytes": 4 * GIB, "link_bits_per_s": None, **changes}
    return replace(MOVED, mode=mode, round=number, seconds=seconds, **setting)  # type: ignore[arg-type]


def test_the_goals_are_those_of_the_budget() -> None:
    assert [(goal.ours, goal.rival, goal.must, goal.aim) for goal in GOALS] == [
        ("mtunnel", "tunnelled-tls", 3.5, 5.0),
        ("mtunnel", "native-tls", 2.5, 4.0),
        ("mtunnel-multifd", "multifd-tls", 1.5, 2.5),
    ]


def test_throughput_is_compared_within_a_round() -> None:
    found = compare(
        [
            *(moved("mtunnel", 1, 1.0), moved("native-tls", 1, 3.0)),
            *(moved("mtunnel", 2, 2.0), moved("native-tls", 2, 10.0)),
            *(moved("mtunnel", 3, 9.0), moved("tunnelled-tls", 4, 1.0)),
        ]
    )
    assert [(c.goal.rival, c.ratio, c.verdict) for c in found] == [
        ("tunnelled-tls", None, "not comparable"),
        ("native-tls", Spread(4.0, 3.0, 5.0), "as aimed at"),
    ]


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(3.0, "missed"), (3.5, "met"), (4.9, "met"), (5.0, "as aimed at")]
)
def test_the_verdict_is_that_of_the_median(seconds: float, verdict: str) -> None:
    (found,) = compare([moved("mtunnel", 1, 1.0), moved("tunnelled-tls", 1, seconds)])
    assert found.verdict == found.as_record()["verdict"] == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"guest_bytes": 2 * GIB}, "missed"),
        ({"guest_bytes": 8 * GIB, "dirty_bytes_per_s": 100 * MIB}, "missed"),
        ({"guest_bytes": GIB}, "no goal"),
        ({"guest_bytes": 16 * GIB}, "no goal"),
        ({"guest_bytes": 4 * GIB, "link_bits_per_s": 10**9}, "no goal"),
    ],
)
def test_there_is_no_goal_where_none_can_be_reached(changes: dict[str, int], verdict: str) -> None:
    """A link of 1 Gbit/s is as slow for everyone; a small guest has moved before it is at full speed."""
    (found,) = compare([moved("mtunnel", 1, 1.0, **changes), moved("native-tls", 1, 1.0, **changes)])
    assert (str(found.ratio), found.verdict) == ("1.00 (1.00-1.00)", verdict)


def test_settings_are_not_mixed() -> None:
    ours, rival = moved("mtunnel", 1, 1.0), moved("native-tls", 1, 3.0)
    assert compare([ours, replace(rival, dirty_bytes_per_s=0)]) == []


def test_who_was_given_up_is_not_compared_but_counted() -> None:
    rounds = [moved("mtunnel", 1, 1.0), moved("mtunnel", 2, 1.0), moved("native-tls", 1, 3.0)]
    given_up = moved("native-tls", 2, 9.0, converged=False)
    (some,) = compare([*rounds, given_up])
    assert (some.ratio, some.given_up) == (Spread(3.0, 3.0, 3.0), (0, 1))
    (none,) = compare([rounds[1], given_up])
    assert (none.ratio, none.given_up, none.verdict) == (None, (0, 1), "not comparable")
    assert none.as_record()["ratio"] is None


def test_each_figure_in_which_a_rival_is_better_is_named() -> None:
    cheap = {"a": {"qemu": 0.5}, "b": {"qemu": 0.5}}
    fast = moved("native-tls", 1, 2.0, cpu_seconds=cheap, downtime_seconds=0.1)
    found = losses([moved("mtunnel", 1, 4.0), fast, moved("tunnelled-tls", 1, 8.0)], [])
    assert [(loss.figure, loss.rival, loss.ratio.median) for loss in found] == [
        ("the time", "native-tls", 0.5),
        ("the CPU time per GiB", "native-tls", 0.25),
        ("the downtime", "native-tls", 0.5),
    ]
    assert str(found[0]) == (
        "4 GiB guest, writing 100 MiB/s, unshaped link: the time of native-tls is 0.50 (0.50-0.50) "
        "times mtunnel's."
    )


def test_a_rival_that_converges_at_higher_rates_is_named() -> None:
    ours = replace(LIMIT, mode="mtunnel-multifd")
    better = replace(LIMIT, mode="multifd-tls", asked_bytes_per_s=192 * MIB)
    (found,) = losses([], [ours, better, replace(LIMIT, mode="native-tls")])
    assert (found.ours, found.rival, found.ratio.median) == ("mtunnel-multifd", "multifd-tls", 2.0)
    assert "1024 MiB guest, unshaped link: the highest dirty rate" in str(found)


def test_the_table_has_everybody_and_the_reasons_of_who_is_missing(tmp: Path) -> None:
    results = Results(tmp, "migrate")
    results.add("absent", name="tunnelled-unix", link_bits_per_s=10**9, missing="no wire")
    results.add("failure", contestant="multifd", reason="libvirt said no\n  more")
    given_up = moved("native-tls", 1, 9.0, converged=False, aborted="more than 10 passes")
    found = Moved([moved("mtunnel", 1, 1.0), moved("tunnelled-tls", 1, 4.0), given_up], [LIMIT])
    written = io.StringIO()
    Console(width=200, file=written).print(table(found, results))
    text = written.getvalue()
    for words in (
        *("2048.00 (2048.00-2048.00)", "1 given up: more than 10 passes", "tunnelled-unix", "no wire"),
        *("failed: libvirt said no", "4.00 (4.00-4.00)", "met", "96.00 (96.00-96.00)"),
    ):
        assert words in text, f"{words} is not in\n{text}"

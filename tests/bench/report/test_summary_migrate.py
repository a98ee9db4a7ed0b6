"""Ours against each rival, within the same round and setting; losses are reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.bench.measure.test_guest_records import LIMIT, MOVED
from tunnel.bench.measure.guest_records import MeasuredMigration
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.summary_migrate import BEST, GOALS, compare, losses
from tunnel.units import GIB, MIB


def moved(mode: str, number: int, seconds: float, **changes: object) -> MeasuredMigration:
    """Return a migration of a guest and over a link that goals apply to, with ``changes``."""
    setting = {"guest_bytes": 4 * GIB, "link_bits_per_s": None, **changes}
    return replace(MOVED, mode=mode, round=number, seconds=seconds, **setting)  # type: ignore[arg-type]


def test_the_goals_are_those_of_the_budget() -> None:
    assert [(goal.ours, goal.rival, goal.must, goal.aim) for goal in GOALS] == [
        ("mtunnel's best way", "multifd-tls-4", 1.15, 1.35),
        ("mtunnel-multifd-4", "multifd-tls-4", 1.0, 1.25),
        ("mtunnel-multifd-8", "multifd-tls-8", None, None),
        ("mtunnel", "native-tls", 2.3, 3.0),
        ("mtunnel", "tunnelled-tls", 4.5, 5.5),
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
        ("native-tls", Spread(4.0, 3.0, 5.0), "as aimed at"),
        ("tunnelled-tls", None, "not comparable"),
    ]


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(4.4, "missed"), (4.5, "met"), (5.4, "met"), (5.5, "as aimed at")]
)
def test_the_verdict_is_that_of_the_median(seconds: float, verdict: str) -> None:
    (found,) = compare([moved("mtunnel", 1, 1.0), moved("tunnelled-tls", 1, seconds)])
    assert found.verdict == found.as_record()["verdict"] == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"guest_bytes": 4 * GIB}, "missed"),
        ({"guest_bytes": 8 * GIB, "dirty_bytes_per_s": 100 * MIB}, "missed"),
        ({"guest_bytes": 2 * GIB}, "no goal"),
        ({"guest_bytes": 16 * GIB}, "no goal"),
        ({"guest_bytes": 4 * GIB, "link_bits_per_s": 10**9}, "no goal"),
    ],
)
def test_there_is_no_goal_where_the_link_or_the_start_decides(changes: dict[str, int], verdict: str) -> None:
    """A link of 1 Gbit/s limits all modes; a small guest has migrated before full speed is reached."""
    (found,) = compare([moved("mtunnel", 1, 1.0, **changes), moved("native-tls", 1, 1.0, **changes)])
    assert (str(found.ratio), found.verdict) == ("1.00 (1.00-1.00)", verdict)


def _best(*records: Mapping[str, object]) -> list[str]:
    """Return the verdicts on the best mode of a run with these records."""
    rounds = [moved("mtunnel", 1, 2.0), moved("mtunnel-multifd-8", 1, 1.0), moved("multifd-tls-4", 1, 1.2)]
    return [c.verdict for c in compare(rounds, records) if c.goal.ours == BEST]


def test_the_best_way_is_the_one_with_the_best_median() -> None:
    rounds = [moved("mtunnel", n, 2.0) for n in (1, 2, 3)]
    rounds += [moved("mtunnel-multifd-8", n, seconds) for n, seconds in ((1, 1.0), (2, 1.0), (3, 9.0))]
    rounds += [moved("multifd-tls-4", n, 1.2) for n in (1, 2, 3)]
    (found,) = compare(rounds)
    assert (found.ours, found.who) == ("mtunnel-multifd-8", "mtunnel's best way: mtunnel-multifd-8")
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(1.2)
    assert found.verdict == "met"
    assert found.as_record()["mode"] == "mtunnel-multifd-8"


def test_without_a_mode_that_converged_there_is_no_best_one() -> None:
    assert compare([moved("mtunnel", 1, 1.0, converged=False), moved("multifd-tls-4", 1, 1.0)]) == []


@pytest.mark.parametrize(
    ("version", "cores", "verdict"),
    [
        ("libvirt 11.3.0, QEMU emulator version 10.0.13 (Debian 1:10.0)", 2, "met"),
        ("libvirt 9.0.0, QEMU emulator version 7.2.22 (Debian 1:7.2)", 2, "no goal: QEMU is 7.2 here"),
        ("libvirt 12.8.0, QEMU emulator version 11.1.0", 16, "no goal: there are 16 cores here"),
    ],
)
def test_the_goal_of_the_best_way_is_for_two_cores_and_a_new_qemu(
    version: str, cores: int, verdict: str
) -> None:
    run = {"kind": "run", "machine": {"cores": cores}}
    assert _best(run, {"kind": "contestant", "version": version}) == [verdict]
    assert _best() == ["met"]


def test_eight_channels_are_compared_without_a_goal() -> None:
    (found,) = compare([moved("mtunnel-multifd-8", 1, 1.0), moved("multifd-tls-8", 1, 2.0)])
    assert (str(found.ratio), found.verdict) == ("2.00 (2.00-2.00)", "no goal")


def test_a_rival_of_two_goals_is_named_once() -> None:
    lost = losses([moved("mtunnel-multifd-4", 1, 2.0), moved("multifd-tls-4", 1, 1.0)], [])
    assert [(loss.ours, loss.figure) for loss in lost] == [("mtunnel-multifd-4", "time")]


def test_settings_are_not_mixed() -> None:
    ours, rival = moved("mtunnel", 1, 1.0), moved("native-tls", 1, 3.0)
    assert compare([ours, replace(rival, dirty_bytes_per_s=0)]) == []


def test_aborted_migrations_are_not_compared_but_counted() -> None:
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
        ("time", "native-tls", 0.5),
        ("CPU time per GiB", "native-tls", 0.25),
        ("downtime", "native-tls", 0.5),
    ]
    assert str(found[0].case) == "4 GiB guest, writing 100 MiB/s, unshaped link"


def test_a_rival_that_converges_at_higher_rates_is_named() -> None:
    ours = replace(LIMIT, mode="mtunnel-multifd-4")
    better = replace(LIMIT, mode="multifd-tls-4", asked_bytes_per_s=192 * MIB)
    (found,) = losses([], [ours, better, replace(LIMIT, mode="native-tls")])
    assert (found.ours, found.rival, found.ratio.median) == ("mtunnel-multifd-4", "multifd-tls-4", 2.0)
    assert (found.case, found.figure) == ("1024 MiB guest, unshaped link", "highest dirty rate")

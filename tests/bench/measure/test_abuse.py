"""``bench abuse``: measurements under each abuse, against real daemons, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tunnel.bench.measure.abuse import CUTS, AbuseOptions, AbuseOutcome, Cuts, Transfer, judge, run
from tunnel.bench.measure.abusers import ABUSERS, Abuser
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.results import Results
from tunnel.units import MIB

SILENT, PING, *_ = (each for each in ABUSERS if each.name in {"silent", "peer-ping"})


def outcome(abused: float = 2.0, plain: float | None = 1.0, lost: int = 0) -> AbuseOutcome:
    calm = Transfer(1.0, {"a": 0.5}, {})
    troubled = Transfer(abused, {"a": 0.7, "abuser": 0.1}, {"made": 300})
    beside = Transfer(plain, {}, {}) if plain else None
    return AbuseOutcome("silent", 1, 100 * MIB, calm, troubled, beside, lost)


def cuts(slowest: float = 0.1, gap: float = 0.2) -> Cuts:
    return Cuts("silent", CUTS, slowest, gap, MIB)


def test_bulk_and_cuts_are_judged_by_the_goal() -> None:
    verdict = judge(SILENT, [outcome(1.0), outcome(1.25), outcome(1.1)], cuts())
    assert [round(each, 2) for each in vars(verdict.ratio).values()] == [0.91, 0.8, 1.0]
    assert verdict.reached
    assert verdict.per_second == {"made": round(900 / 3.35, 1)}
    assert verdict.attacker.high == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ([outcome(1.2)], cuts()),
        ([outcome(1.0, lost=1)], cuts()),
        ([outcome(1.0)], cuts(slowest=5.1)),
        ([outcome(1.0)], cuts(gap=5.1)),
        ([outcome(1.0)], None),
    ],
)
def test_a_missed_goal_is_reported(outcomes: Sequence[AbuseOutcome], found: Cuts | None) -> None:
    assert not judge(SILENT, outcomes, found).reached


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("abuser", [SILENT, PING], ids=lambda each: each.name)
def test_daemons_are_measured_and_cut_under_abuse(
    tmp: Path, abuser: Abuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tunnel.bench.measure.abuse._BETWEEN_CUTS", 0.05
    )  # all cuts before the transfer ends on a fast machine
    results = Results(tmp, "abuse")
    network = Network(effective_congestion(), pinned=False)
    options = AbuseOptions(8 * MIB, rounds=1, cut_size=1024 * MIB)
    (verdict,) = run([abuser], options, network, results, lambda _: None)
    assert [record["kind"] for record in results.records] == ["abuse", "abuse_cuts", "verdict"]
    (record,) = results.of_kind("abuse")
    assert isinstance(record["abused"], dict)
    assert {"a", "b", "source", "sink", "abuser"} == set(record["abused"]["cpu"])
    assert (record["plain"] is None) == (abuser.plain is None)
    assert verdict.lost == 0
    assert verdict.slowest is not None


def test_a_failure_is_recorded(tmp: Path) -> None:
    broken = replace(SILENT, command=lambda _: ["false"])
    results = Results(tmp, "abuse")
    network = Network(effective_congestion(), pinned=False)
    assert run([broken], AbuseOptions(MIB, rounds=1), network, results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert failure["contestant"] == "silent"

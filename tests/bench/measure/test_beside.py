"""A stream beside stalled ones: its throughput, and the bound on memory meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.measure import beside
from tunnel.bench.measure.beside import CASES, BesideCase, BesideOutcome, choose, run
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.results import Results
from tunnel.errors import UsageError
from tunnel.units import MIB
from tunnel.wire.window import FLOOR_WINDOW

NETWORK = Network(effective_congestion(), pinned=False)
BOTH = {"a": 100 * MIB, "b": 100 * MIB}


def outcome(beside_seconds: float = 1.0, growth: int = 0) -> BesideOutcome:
    peak = {"a": 100 * MIB, "b": 100 * MIB + growth}
    return BesideOutcome("x", ("", ""), 512 * MIB, [1.0], [beside_seconds], BOTH, peak, BOTH, 9)


def test_the_bound_is_memory_and_the_floor_of_each_stream() -> None:
    floors = 256 * FLOOR_WINDOW
    assert BesideCase("x", ("", "64MiB")).bounds == {"a": 256 * MIB + floors, "b": 64 * MIB + floors}


@pytest.mark.parametrize(
    ("found", "reached"),
    [
        (outcome(), True),
        (outcome(1.3), False),
        (outcome(growth=105 * MIB), True),
        (outcome(growth=120 * MIB), False),
    ],
)
def test_throughput_and_memory_are_judged(found: BesideOutcome, reached: bool) -> None:
    assert found.reached is reached


def test_abuse_is_chosen_by_name_or_group() -> None:
    everything = choose([])
    assert list(everything[1]) == list(CASES)
    assert [each.name for each in choose(["users", "silent"])[0]] == [
        each.name for each in everything[0] if each.group == "users" or each.name == "silent"
    ]
    assert choose(["users"])[1] == []
    assert choose(["streams"]) == ([], list(CASES))
    with pytest.raises(UsageError, match="unknown abuse: nix; known: strangers"):
        choose(["stalled", "nix"])


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[5]], ids=lambda each: each.name)
def test_a_stream_is_measured_beside_others(
    tmp: Path, case: BesideCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "STREAMS", 8)
    monkeypatch.setattr(beside, "_SINGLE_BYTES", 10)
    results = Results(tmp, "abuse")
    (found,) = run([case], 8 * MIB, 1, NETWORK, results, lambda _: None)
    assert [record["kind"] for record in results.records] == ["beside"]
    assert found.held > 0
    assert min(found.rss_before.values()) > MIB


def test_a_failure_is_recorded(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "_fill_command", lambda *_: ["false"])
    results = Results(tmp, "abuse")
    assert run(CASES[:1], MIB, 1, NETWORK, results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert failure["contestant"] == "stalled"

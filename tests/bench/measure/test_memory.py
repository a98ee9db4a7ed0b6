"""``bench memory``: growth with a stalled reader is distinguished from filling the windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.measure import memory
from tunnel.bench.measure.contestants import Contestant, choose
from tunnel.bench.measure.memory import Footprint
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.relay_commands import Sides
from tunnel.bench.measure.results import Results
from tunnel.units import MIB

MANY = {"a": 77 * MIB, "b": 78 * MIB}


def _footprint(filled: int, stalled: int) -> Footprint:
    same = {"a": 40 * MIB, "b": 41 * MIB}
    return Footprint(
        "x", same, same, {"a": filled, "b": filled}, {"a": stalled, "b": stalled}, 9 * MIB, MANY, 8
    )


def test_growth_counts_after_the_windows_are_full() -> None:
    assert _footprint(filled=10, stalled=17).growth == {"a": 7, "b": 7}


def test_released_memory_is_not_growth() -> None:
    assert _footprint(filled=10, stalled=9).growth == {"a": 0, "b": 0}


@pytest.fixture
def results(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setattr(memory, "FILL_SECONDS", 0.3)
    monkeypatch.setattr(memory, "MANY", 4)
    monkeypatch.setattr(memory, "MANY_STALLED", 3)
    return Results(tmp, "memory")


def test_a_relay_is_measured_idle_busy_and_stalled(results: Results) -> None:
    network = Network(effective_congestion(), pinned=False)
    (found,) = memory.run(choose(["asyncio-streams"]), 4 * MIB, 1.0, network, results, lambda _: None)
    for sizes in (found.idle, found.bulk, found.filled, found.stalled, found.many):
        assert sizes.keys() == {"a", "b"}
        assert min(sizes.values()) > MIB
    assert 0 < found.accepted < 256 * MIB
    assert found.passed > 0
    (record,) = results.of_kind("measurement")
    assert record["growth"] == found.growth


def test_a_failure_is_recorded(results: Results) -> None:
    broken = Contestant("broken", "none", str, lambda site: Sides(a=["true"], b=["false"]))
    network = Network(effective_congestion(), pinned=False)
    assert memory.run([broken], MIB, 1.0, network, results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert failure["contestant"] == "broken"

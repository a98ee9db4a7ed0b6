"""``bench cuts``: the definition of a stall, and measurements against real daemons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.measure import cuts
from tunnel.bench.measure.cuts import CutsOptions, CutsOutcome, run, stalls
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.results import Results


@pytest.mark.parametrize(
    ("moments", "found"),
    [
        ([2.5], [3.0]),  # the longest after it, although it began before
        ([0.5], [3.0]),
        ([0.5, 2.5], [1.0, 3.0]),
        ([5.5], [1.0]),
        ([2.5, 5.0, 5.5], [3.0, 0.0, 1.0]),
    ],
)
def test_a_stall_is_the_longest_gap_from_its_cut_to_the_next(
    moments: list[float], found: list[float]
) -> None:
    assert stalls([0.0, 1.0, 2.0, 5.0, 6.0, 7.0], moments) == found


@pytest.mark.root
@pytest.mark.slow
def test_every_lane_that_is_reset_resumes_and_is_measured(tmp: Path) -> None:
    results = Results(tmp, "cuts")
    options = CutsOptions(cuts=3, round_trips=(0.0, 0.01))
    found = run(options, Network(effective_congestion(), pinned=False), results, lambda _: None)
    assert results.of_kind("failure") == []
    assert [(each.lanes, each.round_trip) for each in found] == [(1, 0.0), (2, 0.0), (1, 0.01), (2, 0.01)]
    for each in found:
        assert len(each.stalls) == each.resumes == 3
        assert min(each.stalls) > 0
        assert each.bytes > 3 * 8 << 20
    assert [record["stalls"] for record in results.of_kind("cuts")] == [each.stalls for each in found]


def test_a_failure_is_recorded(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> CutsOutcome:
        raise BenchError("timed out after 20 s waiting for 2 lanes")

    monkeypatch.setattr(cuts, "measure", fail)
    results = Results(tmp, "cuts")
    options = CutsOptions(lanes=(2,), round_trips=(0.02,))
    assert run(options, Network("cubic", pinned=False), results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert failure["contestant"] == "2 lanes, round trip 20 ms"

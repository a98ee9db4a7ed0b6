"""Latency: real round trips through a relay, idle and under bulk, without limits on their time."""

from __future__ import annotations

import pytest

from tunnel.bench.measure import latency
from tunnel.bench.measure.contestants import Contestant, choose
from tunnel.bench.measure.measurement import Case
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.relay_commands import Sides
from tunnel.units import MIB


@pytest.fixture
def network() -> Network:
    return Network(effective_congestion(), pinned=False)


@pytest.mark.parametrize("name", ["direct", "plain-relay"])
@pytest.mark.parametrize("case", [Case("tcp", 1), Case("unix", 3)], ids=str)
def test_the_given_number_of_round_trips_is_measured(name: str, case: Case, network: Network) -> None:
    (contestant,) = choose([name])
    found = latency.measure(contestant, 2, case, MIB, network, samples=25)
    assert (found.contestant, found.round, found.case) == (name, 2, case)
    for trips in (found.idle, found.loaded):
        assert trips.samples == 25
        assert 0 < trips.p50 <= trips.p99 < 20


def test_a_relay_that_exits_is_an_error(network: Network) -> None:
    broken = Contestant("broken", "none", str, lambda site: Sides(a=["true"], b=["false"]))
    with pytest.raises(BenchError, match="b exited with status 1"):
        latency.measure(broken, 1, Case("tcp", 1), MIB, network, samples=1)

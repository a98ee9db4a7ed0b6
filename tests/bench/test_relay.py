"""``bench relay``: real transfers of a few MiB, never judged by their time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.contestants import CONTESTANTS, Contestant, choose
from tunnel.bench.network import Network, effective_congestion
from tunnel.bench.recipes import Sides
from tunnel.bench.relay import Measurement, Options, measure, run
from tunnel.bench.results import Results
from tunnel.bench.site import Site

MIB = 1 << 20
ONE = Options(size=4 * MIB, repeat=1, streams=1, unix_legs=False)
TWICE = Options(size=2 * MIB, repeat=2, streams=3, unix_legs=True)


@pytest.fixture
def network() -> Network:
    return Network(effective_congestion(), pinned=False)


def _broken(site: Site) -> Sides:
    return Sides(a=["true"], b=["sh", "-c", "echo no such cipher; exit 1"])


BROKEN = Contestant("broken", "none", str, _broken)


def test_the_bare_connection_has_no_sides(network: Network) -> None:
    (direct,) = choose(["direct"])
    found = measure(direct, 1, ONE, network)
    assert (found.contestant, found.round, found.bytes) == ("direct", 1, 4 * MIB)
    assert found.cpu_seconds.keys() == found.rss_peak.keys() == {"source", "sink"}
    assert found.seconds > 0


def test_figures_are_per_gib() -> None:
    cpu = {"a": 1.0, "b": 2.0, "source": 0.25, "sink": 0.5}
    found = Measurement("x", 1, 512 * MIB, 0.25, cpu, {})
    assert (found.gib_per_s, found.relay_cpu, found.load_cpu) == (2.0, 6.0, 1.5)


def test_rounds_alternate_and_every_measurement_is_recorded(tmp: Path, network: Network) -> None:
    results = Results(tmp, "relay")
    said: list[str] = []
    measured = run(choose(["direct", "asyncio-streams"]), TWICE, network, results, said.append)
    order = [("direct", 1), ("asyncio-streams", 1), ("direct", 2), ("asyncio-streams", 2)]
    assert [(found.contestant, found.round) for found in measured] == order
    assert [(r["contestant"], r["round"]) for r in results.of_kind("measurement")] == order
    assert said[1] == "round 1 of 2: asyncio-streams"
    assert measured[1].rss_peak["a"] > MIB


def test_who_fails_is_recorded_and_does_not_stop_the_others(tmp: Path, network: Network) -> None:
    results = Results(tmp, "relay")
    options = Options(size=MIB, repeat=2, streams=1, unix_legs=False)
    measured = run([BROKEN, *choose(["direct"])], options, network, results, lambda _: None)
    assert [found.contestant for found in measured] == ["direct", "direct"]
    (failure,) = results.of_kind("failure")
    assert (failure["contestant"], failure["round"]) == ("broken", 1)
    assert str(failure["reason"]) == "b ended with status 1\n  no such cipher"


@pytest.mark.slow
@pytest.mark.parametrize("unix_legs", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_every_contestant_carries_every_byte(
    contestant: Contestant, unix_legs: bool, network: Network
) -> None:
    found = measure(contestant, 1, Options(3 * MIB, 1, 2, unix_legs), network)
    assert found.bytes == 3 * MIB

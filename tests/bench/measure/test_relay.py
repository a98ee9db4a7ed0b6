"""``bench relay``: real transfers of a few MiB, without limits on their time."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tunnel.bench.measure import floor
from tunnel.bench.measure.contestants import CONTESTANTS, Contestant, choose
from tunnel.bench.measure.measurement import Case
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.relay import RelayOptions, measure, run
from tunnel.bench.measure.relay_commands import Sides
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.site import Site
from tunnel.units import MIB

ONE = Case("tcp", 1)
TWO = [Case("tcp", 1), Case("unix", 3)]


@pytest.fixture
def network() -> Network:
    return Network(effective_congestion(), pinned=False)


def _broken(site: Site) -> Sides:
    return Sides(a=["true"], b=["sh", "-c", "echo no such cipher; exit 1"])


BROKEN = Contestant("broken", "none", str, _broken)


def test_the_bare_connection_has_no_sides(network: Network) -> None:
    (direct,) = choose(["direct"])
    found = measure(direct, 1, ONE, 4 * MIB, network)
    assert (found.contestant, found.round, found.bytes) == ("direct", 1, 4 * MIB)
    assert found.cpu_seconds.keys() == found.rss_peak.keys() == {"source", "sink"}
    assert found.seconds > 0


def test_rounds_alternate_and_every_measurement_is_recorded(tmp: Path, network: Network) -> None:
    results = Results(tmp, "relay")
    messages: list[str] = []
    options = RelayOptions(2 * MIB, 2, (3,), ("unix",), samples=5)
    found = run(choose(["direct", "asyncio-streams"]), options, network, results, messages.append)
    order = [("direct", 1), ("asyncio-streams", 1), ("direct", 2), ("asyncio-streams", 2)]
    assert [(m.contestant, m.round) for m in found.transfers] == order
    assert [(trips.contestant, trips.round) for trips in found.latencies] == order
    for kind in ("measurement", "latency"):
        assert [(r["contestant"], r["round"]) for r in results.of_kind(kind)] == order
    assert messages[1] == "round 1 of 2: asyncio-streams, unix legs, 3 streams"
    assert found.transfers[1].rss_peak["a"] > MIB


def test_every_combination_is_a_case() -> None:
    assert RelayOptions(1, 1, (1, 3), ("tcp", "unix")).cases == [
        Case("tcp", 1),
        Case("tcp", 3),
        Case("unix", 1),
        Case("unix", 3),
    ]


def test_the_floor_is_measured_once_in_each_round_that_has_its_hops(tmp: Path, network: Network) -> None:
    options = RelayOptions(MIB, 2, (1, 2), samples=0)
    found = run(choose(["plain-relay"]), options, network, Results(tmp, "relay"), lambda _: None)
    names = ["aes-256-gcm", "aes-256-gcm-python", "aes-256-gcm-system"]
    assert [(cost.round, cost.by) for cost in found.crypto] == [(n, name) for n in (1, 2) for name in names]
    assert [m.case.streams for m in found.transfers] == [1, 2, 1, 2]


def test_encryption_that_cannot_be_measured_is_recorded_and_skipped(
    tmp: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "_openssl", lambda *arguments: ssl.OPENSSL_VERSION)
    results = Results(tmp, "relay")
    found = run(choose(["plain-relay"]), RelayOptions(MIB, 1, samples=0), network, results, lambda _: None)
    assert len(found.transfers) == 1
    assert [record["by"] for record in results.of_kind("floor")] == ["aes-256-gcm", "aes-256-gcm-python"]
    (failure,) = results.of_kind("failure")
    assert failure["contestant"] == "aes-256-gcm-system"
    assert "printed no rate" in str(failure["reason"])


def test_iperf_is_measured_neither_on_unix_legs_nor_for_latency(tmp: Path, network: Network) -> None:
    options = RelayOptions(MIB, 1, (2,), ("unix", "tcp"), samples=5)
    found = run(choose(["iperf3"]), options, network, Results(tmp, "relay"), lambda _: None)
    assert [m.case for m in found.transfers] == [Case("tcp", 2)]
    assert found.latencies == []


def test_a_failure_is_recorded_and_does_not_stop_the_others(tmp: Path, network: Network) -> None:
    results = Results(tmp, "relay")
    options = RelayOptions(size=MIB, repeat=2, samples=0)
    found = run([BROKEN, *choose(["direct"])], options, network, results, lambda _: None)
    assert [m.contestant for m in found.transfers] == ["direct", "direct"]
    (failure,) = results.of_kind("failure")
    assert (failure["contestant"], failure["round"]) == ("broken", 1)
    assert str(failure["reason"]) == "b exited with status 1\n  no such cipher"


@pytest.mark.slow
@pytest.mark.parametrize("case", TWO, ids=str)
@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_every_contestant_carries_every_byte(
    contestant: Contestant, case: Case, network: Network, tmp: Path
) -> None:
    """Kernel lanes need a kernel with TLS; without it, they are reported as missing."""
    if contestant.name == "mtunnel-kernel" and (lack := contestant.missing()):
        assert lack.startswith("no kernel lanes here: ")
        return
    options = RelayOptions(3 * MIB, 1, (case.streams,), (case.legs,), samples=5)
    results = Results(tmp, "relay")
    found = run([contestant], options, network, results, lambda _: None)
    assert results.of_kind("failure") == []
    tested = 0 if contestant.own_load and case.unix_legs else 1
    assert [m.contestant for m in found.transfers] == [contestant.name] * tested

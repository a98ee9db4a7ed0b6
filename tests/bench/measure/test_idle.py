"""``bench idle``: a daemon with a few links in both directions, and what becomes of failures."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tunnel.bench.measure import idle
from tunnel.bench.measure.idle import ACCEPTED, DIALED, Crowd, IdleOptions, IdleOutcome, run
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.results import Results
from tunnel.errors import UsageError
from tunnel.units import KIB, MIB

FOUND = IdleOutcome(
    round=2,
    direction=ACCEPTED,
    links=1000,
    up_seconds=3.5,
    up_cpu=2.5,
    seconds=60.0,
    cpu=1.2,
    empty=60 * MIB,
    resident=60 * MIB + 1000 * 64 * KIB,
    peak=130 * MIB,
    up=1000,
    lost=0,
)


def test_figures_are_for_each_link() -> None:
    assert FOUND.core == pytest.approx(0.02)
    assert FOUND.cpu_each == pytest.approx(20e-6)
    assert FOUND.bytes_each == 64 * KIB


@pytest.mark.slow
def test_links_in_both_directions_are_measured(tmp: Path) -> None:
    results = Results(tmp, "idle")
    options = IdleOptions(links=5, seconds=1.0, rounds=1, skew=0.1)
    found = run(options, Network(effective_congestion(), pinned=False), results, lambda _: None)
    assert results.of_kind("failure") == []
    assert [(each.direction, each.links, each.up, each.lost) for each in found] == [
        (ACCEPTED, 5, 5, 0),
        (DIALED, 5, 5, 0),
    ]
    for each in found:
        assert 0 < each.up_seconds < 60
        assert each.up_cpu > 0
        assert 1.0 <= each.seconds < 30
        assert 0 <= each.cpu < each.seconds
        assert MIB < each.resident <= each.peak
    assert [record["direction"] for record in results.of_kind("idle")] == [ACCEPTED, DIALED]


def test_a_failure_is_recorded(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> IdleOutcome:
        raise BenchError("3 of 5 links are up")

    monkeypatch.setattr(Crowd, "measure", fail)
    results = Results(tmp, "idle")
    options = IdleOptions(links=1, rounds=1, directions=(DIALED,))
    assert run(options, Network(effective_congestion(), pinned=False), results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert (failure["case"], failure["reason"]) == (DIALED, "3 of 5 links are up")


def test_links_that_do_not_come_up_are_reported_with_the_daemon_s_log(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "_UP_SECONDS", 0.5)
    crowd = idle.gather(tmp, 1, effective_congestion())
    (tmp / "pki" / "peer1.pem").write_bytes((tmp / "pki" / "hosta.pem").read_bytes())
    (tmp / "pki" / "peer1.key").write_bytes((tmp / "pki" / "hosta.key").read_bytes())
    with pytest.raises(BenchError, match=r"(?s)[01] of 2 links are up.*event=serving"):
        Crowd(crowd.site, 2).measure(1, ACCEPTED, 1.0)


def test_more_links_than_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    with pytest.raises(UsageError, match="--links 1400 needs 4300 open files, but the hard limit is 4096"):
        IdleOptions(links=1400).check_machine()
    IdleOptions(links=1300).check_machine()

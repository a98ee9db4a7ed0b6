"""``bench scale``: the cases and the figures of threads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tunnel.bench.measure import scale
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.scale import Scaled, ScaleOptions, _cases, lock_share, run
from tunnel.units import GIB, MIB

FOUND = Scaled(
    round=1,
    workers=4,
    streams=8,
    bytes=2 * GIB,
    seconds=1.0,
    cpu={"a": 0.8, "b": 1.0},
    busiest={"a": 0.2, "b": 0.3},
    lock={"a": 0.4, "b": 0.16},
    share=0.3,
)


def test_every_number_of_workers_is_measured_with_every_number_of_streams() -> None:
    options = ScaleOptions(MIB, workers=(1, 2), streams=(1, 4), rounds=2)
    once = [(1, 1), (2, 1), (1, 4), (2, 4)]
    assert list(_cases(options)) == [(number, *case) for number in (1, 2) for case in once]


def test_the_limit_of_a_host_is_a_thread_or_the_lock() -> None:
    assert FOUND.gib == 2.0
    assert FOUND.bound == 5.0


def test_kernel_and_engine_release_the_lock() -> None:
    python = "run [python3.11]"
    stacks = Counter(
        {
            (python, "eval [python3.11]"): 30,
            (python, "on_read [loop.cpython-311.so]"): 10,
            (python, "recv [libc.so.6]", "copy_to_user [kernel]"): 25,
            (python, "mt_seal [engine-1234.so.1]", "memcpy [libc.so.6]"): 5,
            (python, "aes_gcm [libIPSec_MB.so.1]"): 30,
        }
    )
    assert lock_share(stacks) == 0.4
    assert lock_share(Counter()) == 0.0


@pytest.mark.slow
@pytest.mark.root  # perf
def test_threads_of_real_daemons_are_measured(tmp: Path) -> None:
    results = Results(tmp, "scale")
    options = ScaleOptions(256 * MIB, workers=(1, 2), streams=(2,))
    found = run(options, Network(effective_congestion(), pinned=False), results, lambda _: None)
    assert results.of_kind("failure") == []
    one, two = found
    assert one.share == 1.0
    assert 0.5 <= two.share < 0.9
    for each in (one, two):
        assert each.cpu.keys() == each.busiest.keys() == each.lock.keys() == {"a", "b"}
        assert 0 < each.busiest["a"] <= each.cpu["a"]
        assert each.lock["a"] <= each.cpu["a"]
        assert each.bound > 0
    assert two.busiest["a"] < 0.9 * two.cpu["a"], "two threads share the work"
    assert [record["kind"] for record in results.records] == ["scale", "scale"]


def test_a_failure_is_recorded(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Scaled:
        raise BenchError("no")

    monkeypatch.setattr(scale, "measure", fail)
    results = Results(tmp, "scale")
    options = ScaleOptions(MIB, workers=(2,), streams=(1,))
    assert run(options, Network(effective_congestion(), pinned=False), results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert (failure["contestant"], failure["reason"]) == ("2 workers, 1 stream", "no")

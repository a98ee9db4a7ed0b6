"""``bench rotate``: the cases and measurements against real daemons."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tunnel.bench.measure import rotate
from tunnel.bench.measure.netns import Network, effective_congestion
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.rotate import LASTING, RotateCase, RotateOptions, RotateOutcome, _cases, run
from tunnel.units import MIB


def outcome(**changes: float) -> RotateOutcome:
    fields: dict[str, float | str] = {
        "round": 1,
        "lanes": 2,
        "kinds": "userspace-kernel",
        "streams": 8,
        "records": 1024,
        "bytes": 3 << 30,
        "seconds": 6.0,
        "gap": 0.0834,
        "silence": 0.0121,
        "rotations": 190,
        "resumes": 0,
        "most_records": 1345,
    }
    return RotateOutcome(**{**fields, **changes})  # type: ignore[arg-type]  # checked by the dataclass


def test_every_number_and_kind_of_lanes_is_measured_with_and_without_rotation() -> None:
    one, other = ("userspace", "userspace"), ("userspace", "kernel")
    options = RotateOptions(MIB, lanes=(1, 2), rounds=2, kinds=(other,))
    both = [(1, other, LASTING), (1, other, 1024), (2, other, LASTING), (2, other, 1024)]
    assert list(_cases(options)) == [RotateCase(number, *case) for number in (1, 2) for case in both]
    alone = RotateOptions(MIB, lanes=(3,), records=2048, compare=False, kinds=(one, other))
    assert list(_cases(alone)) == [RotateCase(1, 3, one, 2048), RotateCase(1, 3, other, 2048)]


@pytest.mark.slow
def test_daemons_are_watched_while_lanes_are_replaced(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is too busy to reply is polled again, without aborting the transfer."""
    looks, look = itertools.count(), rotate._Watch.look

    def unheard_at_first(watch: rotate._Watch) -> None:
        if not next(looks):
            raise BenchError("timed out")
        look(watch)

    monkeypatch.setattr(rotate._Watch, "look", unheard_at_first)
    results = Results(tmp, "rotate")
    options = RotateOptions(96 * MIB, streams=3, lanes=(1,), kinds=(("userspace", "userspace"),))
    lasting, rotated = run(options, Network(effective_congestion(), pinned=False), results, lambda _: None)
    assert (lasting.rotations, lasting.resumes, rotated.resumes) == (0, 0, 0)
    assert rotated.rotations >= 1
    assert lasting.most_records > 96 * MIB // (16 * 1024)
    assert 1024 <= rotated.most_records < lasting.most_records
    assert lasting.bytes == rotated.bytes == 96 * MIB
    assert [record["kind"] for record in results.records] == ["rotation"] * 2
    assert 0 < rotated.silence <= rotated.gap < rotated.seconds


def test_a_failure_is_recorded(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate, "duplex_command", lambda *_: ["false"])
    results = Results(tmp, "rotate")
    options = RotateOptions(MIB, lanes=(1,), compare=False, kinds=(("userspace", "kernel"),))
    assert run(options, Network(effective_congestion(), pinned=False), results, lambda _: None) == []
    (failure,) = results.of_kind("failure")
    assert failure["contestant"] == "1 lane, userspace-kernel, 1024 records a key"

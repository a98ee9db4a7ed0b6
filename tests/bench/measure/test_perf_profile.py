"""The profile of a side for the result file, and the samples of perf."""

from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path

import pytest

from tunnel.bench.measure.perf_profile import Profile, Recorder
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.rig import Rig

SIDE = Profile("a", 0.4, Counter({("f [python3.11]",): 1, ("ksys_write [kernel]",): 3}))


def test_time_is_given_per_gib() -> None:
    assert SIDE.as_record() == {
        "side": "a",
        "cpu_seconds_per_gib": 0.4,
        "milliseconds": {"kernel: send on the lane": 300.0, "Python, its loop and libraries": 100.0},
    }


def perf(directory: Path, script: str, *, begins: bool = True) -> str:
    """Create a stand-in for perf, which not every machine permits; return its path."""
    answer = "for each; do case $each in fifo:*) fifos=${each#fifo:}; esac; done\n"
    answer += "read order <${fifos%,*}; echo $order >&2; printf 'ack\\n' >${fifos#*,}\n"
    program = directory / "perf"
    program.write_text(
        f"#!/bin/sh\nif [ $1 = script ]; then {script}; exit; fi\ntrap 'echo stopped >&2; exit' INT\n"
        f"{answer if begins else 'exit 3'}\necho recording >&2\nwhile :; do sleep 0.1; done\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_the_samples_of_perf_are_folded(tmp: Path) -> None:
    with Rig(tmp) as rig:
        program = rig.start("idle", ["sleep", "60"])
        recorder = Recorder(perf(tmp, r"printf 'x\n 1 f+0x1 (/bin/x)\n'"), rig, program, tmp)
        assert recorder.stop() == Counter({("f [x]",): 1})


def test_a_perf_without_samples_is_an_error_with_its_output(tmp: Path) -> None:
    with Rig(tmp) as rig:
        program = rig.start("idle", ["sleep", "60"])
        recorder = Recorder(perf(tmp, "echo not permitted >&2"), rig, program, tmp)
        with pytest.raises(BenchError, match=r"(?s)perf took no samples.*not permitted"):
            recorder.stop()


def test_a_perf_that_does_not_start_is_an_error(tmp: Path) -> None:
    with Rig(tmp) as rig:
        program = rig.start("idle", ["sleep", "60"])
        with pytest.raises(BenchError, match="perf exited with status 3"):
            Recorder(perf(tmp, "true", begins=False), rig, program, tmp)

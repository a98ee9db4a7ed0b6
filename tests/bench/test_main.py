"""``python -m tunnel.bench``: SIGTERM and SIGINT leave no process and no scratch directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tunnel.bench.lab.waiting import until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_stopped_leaves_nothing_behind(tmp: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tunnel.bench", "memory", "--only=asyncio-streams", f"--results={tmp}"]
    environment = {**os.environ, "TMPDIR": str(tmp)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as bench:
        children = psutil.Process(bench.pid).children
        until(lambda: len(children()) >= 4, "for four programs")
        programs = children()
        bench.send_signal(number)
        assert bench.wait(timeout=20) == 128 + number
    # The kernel kills a program that was just being started, shortly after the benchmark.
    _, alive = psutil.wait_procs(programs, timeout=10)
    assert [program for program in alive if program.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp.glob("mtunnel-bench-*")) == []


def test_help_names_the_benchmarks() -> None:
    command = [sys.executable, "-m", "tunnel.bench", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    for name in ("relay", "memory", "report"):
        assert name in done.stdout

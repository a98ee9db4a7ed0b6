"""``python -m tunnel.bench``: SIGTERM and SIGINT leave no process and no scratch directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_stopped_leaves_nothing_behind(tmp: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tunnel.bench", "memory", "--only=asyncio-streams", f"--results={tmp}"]
    environment = {**os.environ, "TMPDIR": str(tmp)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as bench:
        programs = _wait_for_programs(bench.pid, count=4)
        bench.send_signal(number)
        assert bench.wait(timeout=20) == 128 + number
    # The kernel kills a program that was just being started, shortly after the benchmark.
    _, alive = psutil.wait_procs(programs, timeout=10)
    assert [program for program in alive if program.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp.glob("mtunnel-bench-*")) == []


def _wait_for_programs(pid: int, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while len(children := psutil.Process(pid).children()) < count:
        assert time.monotonic() < deadline, f"only {children} after 20 s"
        time.sleep(0.02)
    return children


def test_help_names_the_benchmarks() -> None:
    command = [sys.executable, "-m", "tunnel.bench", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    for name in ("relay", "memory", "report"):
        assert name in done.stdout

"""``bench goals``: every goal has its contestants, and one file has all results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.bench.measure.contestants import choose
from tunnel.bench.measure.migration_modes import choose as choose_modes
from tunnel.bench.report import goals
from tunnel.bench.report.report_goals import verdicts
from tunnel.bench.report.result_file import read


def test_all_required_contestants_exist() -> None:
    assert len(choose(goals.RELAYS)) == len(goals.RELAYS)
    assert len(choose_modes(goals.MODES)) == len(goals.MODES)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(480)
def test_one_run_measures_every_goal(tmp: Path) -> None:
    small = ["--rounds=1", "--size=64MiB", "--memory=64MiB", "--stall=1", "--links=5", "--seconds=1"]
    quick = ["--samples=20", f"--results={tmp}"]
    command = [sys.executable, "-m", "tunnel.bench", "goals", *small, *quick]
    done = subprocess.run(command, capture_output=True, text=True, timeout=460, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp.glob("*-goals.jsonl")
    runs = read(path)
    assert [run.benchmark for run in runs] == ["relay", "memory", "scale", "idle", "migrate"]
    # Goals for migrations apply to guests of 4 GiB and more: these are measured, but not evaluated.
    judged = {row.what: row.verdict for row in verdicts(runs)}
    assert {what for what, verdict in judged.items() if verdict == "not measured"} == {
        what for what in judged if what.startswith("migration")
    }
    assert {record["mode"] for record in runs[4].of_kind("migration")} == set(goals.MODES)
    assert "Goals of mtunnel" in done.stdout

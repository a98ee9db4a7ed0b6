"""The properties of the machine in every result file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tunnel.bench.measure import machine

KEYS = {
    *("cpu", "cores", "memory_bytes", "kernel", "system"),
    *("python", "openssl", "commit", "load_average"),
}


def test_the_properties_have_stable_keys_and_fit_into_json() -> None:
    facts = machine.describe()
    assert set(facts) == KEYS
    assert json.loads(json.dumps(facts)) == facts


def _repository(directory: Path) -> None:
    git = ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (directory / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True, timeout=20)


def test_the_commit_has_a_mark_for_uncommitted_changes(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _repository(tmp)
    monkeypatch.setattr(machine, "__file__", str(tmp / "machine.py"))
    clean = str(machine.describe()["commit"])
    (tmp / "file").write_text("2")
    assert len(clean) == 12
    assert machine.describe()["commit"] == f"{clean}+"


def test_untracked_files_such_as_results_do_not_count_as_changes(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _repository(tmp)
    (tmp / "results").write_text("1")
    monkeypatch.setattr(machine, "__file__", str(tmp / "machine.py"))
    assert not str(machine.describe()["commit"]).endswith("+")


def test_outside_of_a_checkout_the_commit_is_unknown(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp / "machine.py"))
    assert machine.describe()["commit"] == "unknown"

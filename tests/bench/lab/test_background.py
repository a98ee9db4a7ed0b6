"""A lab in the background: it is found again, stopped, and removed when its keeper is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.lab import open_directory
from tunnel.bench.lab import background
from tunnel.bench.lab.lab import LOCK, STATE, Lab, claim
from tunnel.bench.lab.waiting import LabError, until
from tunnel.errors import UsageError


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for a lab, which is stopped afterwards."""
    with open_directory() as home:
        yield home / "lab"
        background.stop(home / "lab")


def test_no_lab_is_found_in_an_empty_directory(place: Path) -> None:
    assert background.kept(place) is None
    assert not background.stop(place)


def test_files_of_a_killed_lab_are_not_a_lab_and_are_removed(place: Path) -> None:
    claim(place).close()
    (place / STATE).write_text(json.dumps({"owner": 1, "hosts": {}}))
    assert background.kept(place) is None
    assert not background.stop(place)
    assert not place.exists()


def test_a_lab_is_found_by_its_lock_and_its_state(place: Path) -> None:
    with claim(place):
        (place / STATE).write_text(json.dumps({"owner": 7, "hosts": {"A": 8, "B": 9}}))
        assert background.kept(place) == background.BackgroundLab(7, {"A": 8, "B": 9})


def test_a_lab_that_is_starting_is_reported(place: Path) -> None:
    with claim(place), pytest.raises(LabError, match="is starting or stopping"):
        background.kept(place)


def test_looking_for_a_lab_does_not_change_its_directory(place: Path) -> None:
    with claim(place):
        (place / STATE).write_text(json.dumps({"owner": 7, "hosts": {}}))
        background.kept(place)
        assert {path.name for path in place.iterdir()} == {LOCK, STATE}


@pytest.mark.parametrize(("error", "usage"), [(UsageError("missing"), True), (LabError("broken"), False)])
def test_a_keeper_that_fails_reports_it_in_one_line(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    usage: bool,
) -> None:
    def fail(_: Lab) -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Lab, "up", fail)
    with pytest.raises(SystemExit):
        background.keep(place)
    signal.signal(signal.SIGTERM, before)
    assert json.loads(capsys.readouterr().out) == {"error": str(error), "usage": usage}


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ('{"error": "missing", "usage": true}', UsageError, "missing"),
        ('{"error": "broken", "usage": false}', LabError, "broken"),
        ("", LabError, "the lab did not come up"),
    ],
)
def test_the_error_of_a_keeper_is_passed_on(
    place: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch, output: str, error: type[Exception], message: str
) -> None:
    fake = tmp / "python"
    fake.write_text(f"#!/bin/sh\necho '{output}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(error, match=message):
        background.start(place)


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and _status(pid) != psutil.STATUS_ZOMBIE]


def _status(pid: int) -> str:
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


@pytest.mark.root
def test_a_killed_keeper_leaves_no_process_and_no_namespace(place: Path) -> None:
    background.start(place)
    lab = background.kept(place)
    assert lab is not None
    inside = [
        child.pid for pid in lab.hosts.values() for child in psutil.Process(pid).children(recursive=True)
    ]
    everything = [lab.owner, *lab.hosts.values(), *inside]
    networks = {Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in lab.hosts.values()}
    assert any(psutil.Process(pid).name() == "libvirtd" for pid in inside)
    os.kill(lab.owner, signal.SIGKILL)
    until(lambda: not _alive(everything), "for all processes to exit")
    assert not networks & _networks()
    assert background.kept(place) is None
    background.start(place)  # in the directory of the first
    assert background.stop(place)
    assert not place.exists()


def _networks() -> set[int]:
    """Return every network namespace that a process is in, or that is mounted under a name."""
    found = set[int]()
    for entry in [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/run/netns").glob("*")]:
        try:
            found.add(entry.stat().st_ino)
        except OSError:
            continue
    return found


@pytest.mark.root
def test_a_stopped_lab_is_gone_when_stop_returns(place: Path) -> None:
    background.start(place)
    lab = background.kept(place)
    assert lab is not None
    assert background.stop(place)
    assert _alive([lab.owner, *lab.hosts.values()]) == []
    assert not place.exists()


@pytest.mark.root
def test_a_frozen_keeper_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_DOWN_SECONDS", 0.3)
    background.start(place)
    lab = background.kept(place)
    assert lab is not None
    os.kill(lab.owner, signal.SIGSTOP)
    assert background.stop(place)
    assert _alive([lab.owner, *lab.hosts.values()]) == []
    assert not place.exists()


@pytest.mark.root
def test_the_keeper_detaches_from_the_terminal(place: Path) -> None:
    """A program that reads the output of ``up`` to EOF must not wait until the lab ends."""
    command = [sys.executable, "-m", "tunnel.bench.lab", "up", f"--directory={place}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=True)
    assert b"the lab is up" in done.stdout
    assert (place / "keeper.log").read_text() == ""

"""The ``lab`` command as typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import open_directory
from tunnel.bench.lab import background, lab_app
from tunnel.bench.lab.host_plan import plan
from tunnel.errors import UsageError

LAB = (sys.executable, "-m", "tunnel.bench.lab")


def _lab(*arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAB, *arguments], capture_output=True, text=True, timeout=90, check=False, input=typed
    )


def test_the_next_steps_name_this_lab(tmp: Path) -> None:
    text = lab_app.next_steps(tmp)
    assert f"qemu:///system?socket={plan(tmp)[0].directory}/run/libvirt/libvirt-sock" in text
    assert "./run lab shell A" in text


def test_an_unknown_host_is_refused(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "kept", lambda directory: background.BackgroundLab(1, {"A": 2, "B": 3}))
    with pytest.raises(UsageError, match="HOST must be A or B, not 'C'"):
        lab_app.shell("C", tmp)


@pytest.mark.parametrize(("host", "pid"), [("A", 2), ("b", 3)])
def test_a_shell_enters_the_namespaces_of_its_host(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, host: str, pid: int
) -> None:
    monkeypatch.setattr(background, "kept", lambda directory: background.BackgroundLab(1, {"A": 2, "B": 3}))
    asked: list[list[str]] = []
    monkeypatch.setattr("os.execve", lambda program, argv, env: asked.append(argv))
    lab_app.shell(host, tmp)
    assert asked[0][:2] == ["nsenter", f"--target={pid}"]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for a lab, which is stopped afterwards."""
    with open_directory() as home:
        yield home / "lab"
        background.stop(home / "lab")


@pytest.mark.root
def test_a_lab_stays_up_until_it_is_taken_down(place: Path) -> None:
    up = _lab("up", "--directory", place)
    assert (up.returncode, up.stderr) == (0, "")
    assert "the lab is up, in " in up.stdout
    again = _lab("up", "--directory", place)
    assert again.returncode == 2
    assert again.stderr.startswith(f"lab: a lab is already up in {place}: ")
    inside = _lab("shell", "B", "--directory", place, typed="hostname; virsh -q list\n")
    assert inside.stdout == "hostb.lab\n"
    down = _lab("down", "--directory", place)
    assert (down.returncode, down.stdout) == (0, "the lab is down\n")
    assert not place.exists()

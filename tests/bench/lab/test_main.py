"""``python -m tunnel.bench.lab`` reports errors as one message and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.bench.lab import __main__ as program
from tunnel.errors import UsageError

LAB = (sys.executable, "-m", "tunnel.bench.lab")


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAB, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_an_error_is_one_message_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise UsageError("not like this")

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "lab: not like this\n"


def test_without_a_command_the_commands_are_listed() -> None:
    done = _run()
    assert all(word in done.stdout + done.stderr for word in ("up", "down", "shell"))
    assert "keep" not in done.stdout


def test_a_shell_needs_a_lab_that_is_up(tmp: Path) -> None:
    done = _run("shell", "A", "--directory", tmp / "lab")
    assert (done.returncode, done.stderr) == (
        2,
        f"lab: no lab is up in {tmp / 'lab'}: start it with ./run lab up\n",
    )


def test_stopping_no_lab_is_not_an_error(tmp: Path) -> None:
    done = _run("down", "--directory", tmp / "lab")
    assert (done.returncode, done.stdout) == (0, f"no lab is up in {tmp / 'lab'}\n")


NOBODY = """
import os, sys
from tunnel.bench.lab.__main__ import main
os.geteuid = lambda: 65534
sys.argv = sys.argv[1:]
main()
"""


def test_without_root_every_missing_requirement_is_listed(tmp: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, "lab", "keep", "--directory", tmp / "lab"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": "/nowhere"},
    )
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["usage"]
    lines = answer["error"].splitlines()
    assert lines[0] == "cannot set up the lab; missing:"
    assert lines[1].startswith("  root: ")
    assert "virsh" in lines[2]
    assert list(tmp.iterdir()) == []

"""Programs in a host, tested without namespaces, so that root is not needed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from tunnel.bench.lab import programs
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.namespaces import Namespaces
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError, until

FORK = """
import os, sys
child = os.fork()
if not child:
    os.execvp(sys.argv[1], sys.argv[1:])
status = os.waitpid(child, 0)[1]
if os.WIFSIGNALED(status):
    os.kill(os.getpid(), os.WTERMSIG(status))
sys.exit(os.WEXITSTATUS(status))
"""


class Nowhere:
    """Stands in for namespaces: programs run as a grandchild, as when namespaces are entered."""

    enter = (sys.executable, "-I", "-S", "-c", FORK, "setpriv", "--pdeathsig", "KILL", "--")


HERE = cast("Namespaces", Nowhere())


def _start(tmp: Path, *argv: str, **options: Any) -> Started:
    return Started(HERE, argv, tmp, **options)


def test_the_output_of_a_program_is_returned() -> None:
    done = programs.run(HERE, ["cat"], input="said")
    assert (done.returncode, done.stdout) == (0, "said")


def test_a_failing_program_is_an_error_with_its_output() -> None:
    with pytest.raises(LabError, match=r"sh -c '.*' failed with status 3: the reason"):
        programs.run(HERE, ["sh", "-c", "echo the reason >&2; exit 3"])


def test_an_expected_failure_is_returned() -> None:
    assert programs.run(HERE, ["false"], check=False).returncode == 1


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(LabError, match=r"sleep 300 timed out after 0\.2 s"):
        programs.run(HERE, ["sleep", "300"], timeout=0.2)


def test_only_the_library_path_is_inherited_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/ipsec-mb")
    found = programs.run(HERE, ["env"], env={"MINE": "yes"}).stdout.splitlines()
    assert {"MINE=yes", "LD_LIBRARY_PATH=/opt/ipsec-mb"} <= set(found)
    assert not any(line.startswith("LIBVIRT_DEFAULT_URI") for line in found)


def test_a_started_program_is_found_and_signalled(tmp: Path) -> None:
    program = _start(
        tmp, "sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    )
    until(lambda: "ready" in program.output(), "for it to be ready")
    assert program.running
    assert psutil.Process(program.pid).name() == "sh"
    program.signal(signal.SIGTERM)
    assert program.wait() == 7
    assert program.output() == "ready\nbye\n"
    assert not program.running


def test_the_exit_code_of_a_killed_program_is_the_signal(tmp: Path) -> None:
    program = _start(tmp, "sleep", "300")
    assert program.kill() == -signal.SIGKILL
    assert program.kill() == -signal.SIGKILL  # safe to call twice


def test_a_program_that_ignores_sigterm_is_killed(tmp: Path) -> None:
    program = _start(tmp, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: program.output(), "for it to be ready")
    assert program.stop(grace=0.2) == -signal.SIGKILL


def test_a_program_may_exit_immediately(tmp: Path) -> None:
    program = _start(tmp, "sh", "-c", "echo gone; exit 4")
    assert program.wait() == 4
    assert program.said() == "\n  gone"
    program.signal(signal.SIGTERM)
    assert program.stop() == 4


def test_waiting_has_a_timeout(tmp: Path) -> None:
    program = _start(tmp, "sleep", "300")
    with pytest.raises(LabError, match=r"sleep timed out after 0\.1 s \(no output\)"):
        program.wait(0.1)
    program.kill()


def test_two_programs_of_one_name_have_two_logs(tmp: Path) -> None:
    first, second = _start(tmp, "echo", "1"), _start(tmp, "echo", "2")
    assert (first.wait(), second.wait()) == (0, 0)
    assert (first.output(), second.output()) == ("1\n", "2\n")


@pytest.mark.root
def test_a_program_that_timed_out_is_killed_in_its_host(lab: Lab) -> None:
    with pytest.raises(LabError, match="sleep 301 timed out"):
        lab.a.run(["sleep", "301"], timeout=0.3)
    until(lambda: lab.a.run(["pgrep", "-f", "sleep 301"], check=False).returncode == 1, "for it to be gone")

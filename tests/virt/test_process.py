"""Children are reaped, even when they ignore SIGTERM, and are killed with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tunnel.errors import UsageError
from tunnel.virt.polling import until
from tunnel.virt.process import Child

STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
)
PARENT = """
import os, pathlib, sys, tunnel.virt.process
child = tunnel.virt.process.Child("child", ["sh", "-c", "echo up; exec sleep 600"], pathlib.Path(sys.argv[1]))
while sys.argv[2] == "later" and not child.output():
    pass
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


async def wait_for_output(child: Child, text: str) -> None:
    await until(lambda: text in child.output(), within=10, every=0.01)


async def test_child_is_terminated_and_reaped(tmp: Path) -> None:
    child = Child("sleep", ["sleep", "600"], tmp / "log")
    assert child.running
    assert await child.stop() == -signal.SIGTERM
    assert not psutil.pid_exists(child.pid)
    assert await child.stop() == -signal.SIGTERM


async def test_child_that_exits_has_an_exit_code_and_output(tmp: Path) -> None:
    child = Child("shell", ["sh", "-c", "echo said; echo complained >&2; exit 7"], tmp / "log")
    assert await asyncio.wait_for(child.wait(), 10) == 7
    assert child.output() == "said\ncomplained\n"
    assert child.said() == "\n  said\n  complained"


async def test_child_that_ignores_sigterm_is_killed(tmp: Path) -> None:
    child = Child("stubborn", [sys.executable, "-c", STUBBORN], tmp / "log")
    await wait_for_output(child, "ready")
    assert await child.stop(grace=0.1) == -signal.SIGKILL


async def test_cancelled_stop_still_kills_and_reaps(tmp: Path) -> None:
    child = Child("stubborn", [sys.executable, "-c", STUBBORN], tmp / "log")
    await wait_for_output(child, "ready")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.stop(grace=60), 0.1)
    assert not child.running


async def test_child_is_not_in_the_terminals_process_group(tmp: Path) -> None:
    child = Child("sleep", ["sleep", "600"], tmp / "log")
    assert os.getpgid(child.pid) == child.pid != os.getpgrp()
    await child.stop()


@pytest.mark.parametrize("when", ["immediately", "later"])
def test_child_is_killed_with_its_parent(tmp: Path, when: str) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT, tmp / "log", when],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    _, status = os.waitpid(int(parent.stdout), 0)  # the tests adopt orphans: see conftest.py
    assert when == "immediately" or os.waitstatus_to_exitcode(status) == -signal.SIGKILL


async def test_program_that_is_not_installed_is_a_usage_error(tmp: Path) -> None:
    with pytest.raises(UsageError, match="no-such-program is not on PATH"):
        Child("nothing", ["no-such-program"], tmp / "log")

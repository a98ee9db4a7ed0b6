"""A lab that outlives the command that started it: a background process, the keeper, owns it.

``lab.json`` in the lab's directory holds the process ids; a lock there is held while the keeper runs.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunnel.bench.lab.lab import LOCK, STATE, Lab, lock_of
from tunnel.bench.lab.tools import path_of
from tunnel.bench.lab.waiting import LabError, until
from tunnel.errors import UsageError

_UP_SECONDS = 60.0
_DOWN_SECONDS = 30.0
_READY = "ready"


@dataclass(frozen=True, slots=True)
class BackgroundLab:
    """A running lab: the process id of its owner, and those of its hosts' init processes, by letter."""

    owner: int
    hosts: dict[str, int]


def start(directory: Path, congestion: str | None = None) -> float:
    """Bring up a lab in the background; return how many seconds it took.

    Raises the errors of ``Lab.up``, and LabError when it is not up after a minute.
    """
    command = [sys.executable, "-m", "tunnel.bench.lab", "keep", f"--directory={directory}"]
    began = time.monotonic()
    # setsid exits immediately, so that the keeper is not a child of this process.
    with subprocess.Popen(
        [path_of("setsid"), "--fork", *command, *([f"--congestion={congestion}"] if congestion else [])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        pipe = launcher.stdout
        answered = pipe is not None and bool(select.select([pipe], [], [], _UP_SECONDS)[0])
        line = pipe.readline().strip() if pipe is not None and answered else ""
    answer = json.loads(line or "{}")
    if answer.get("state") == _READY:
        return time.monotonic() - began
    # A keeper that is too slow gets EPIPE on its reply, and shuts the lab down.
    message = answer.get("error", f"the lab did not come up within {_UP_SECONDS:g} s")
    raise UsageError(message) if answer.get("usage") else LabError(message)


def keep(directory: Path, congestion: str | None = None) -> None:
    """Run as the keeper: bring up the lab, report it in one line of JSON, and run until SIGTERM."""
    # SIGTERM unwinds the stack from now on, which shuts the lab down.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    lab = Lab(directory, congestion=congestion)
    try:
        lab.up()
    except (UsageError, LabError) as error:
        _say({"error": str(error), "usage": isinstance(error, UsageError)})
        sys.exit(error.exit_code)
    try:
        _say({"state": _READY})
        _turn_to(directory / "keeper.log")
        while True:
            signal.pause()
    finally:
        lab.down()


def kept(directory: Path) -> BackgroundLab | None:
    """Return the lab that is up in ``directory``, or None. Raises LabError when its state is unreadable."""
    if not (directory / LOCK).exists():
        return None
    lock = lock_of(directory)
    if lock is not None:
        lock.close()
        return None
    try:
        state = json.loads((directory / STATE).read_text())
        return BackgroundLab(
            int(state["owner"]), {letter: int(pid) for letter, pid in state["hosts"].items()}
        )
    except (OSError, ValueError, KeyError) as error:
        raise LabError(f"the lab in {directory} is starting or stopping: {error}; try again") from error


def stop(directory: Path) -> bool:
    """Stop the lab in ``directory`` and remove its files; return whether one was up."""
    lab = kept(directory)
    if lab is not None:
        _end(lab)
    if (directory / LOCK).exists():  # of a lab whose owner was killed
        shutil.rmtree(directory)
    return lab is not None


def _end(lab: BackgroundLab) -> None:
    processes = [_process(pid) for pid in (lab.owner, *lab.hosts.values())]
    owner = processes[0]
    if owner is not None:
        owner.terminate()
        with suppress(LabError):
            until(lambda: not _lives(owner), "for the keeper to exit", _DOWN_SECONDS)
        with suppress(psutil.NoSuchProcess):
            owner.kill()
    until(lambda: not any(_lives(process) for process in processes), "for the lab's processes to exit")


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None


def _lives(process: psutil.Process | None) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    return False


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


def _turn_to(log: Path) -> None:
    """Detach from the terminal: redirect stdout and stderr to ``log``."""
    with log.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)

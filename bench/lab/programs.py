"""Programs inside a host: run to completion, or started in the background."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tunnel.bench.lab.namespaces import PATH, Namespaces
from tunnel.bench.lab.waiting import PATIENCE, LabError, until
from tunnel.virt.process import LoggedProcess

Done = subprocess.CompletedProcess[str]

_numbers = itertools.count(1)


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of programs in a host: only LD_LIBRARY_PATH is inherited, plus ``changes``."""
    own = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **own, **(changes or {})}


def run(
    inside: Namespaces,
    argv: Sequence[str],
    *,
    timeout: float = PATIENCE,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002  as in subprocess.run
) -> Done:
    """Run ``argv`` inside and return its output.

    Raises LabError when it does not exit within ``timeout`` seconds (it is killed then), and, with ``check``,
    when it fails, with its output.
    """
    try:
        done = subprocess.run(
            [*inside.enter, *argv],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=environment(env),
            stdin=None if input is not None else subprocess.DEVNULL,
            input=input,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(argv)} timed out after {timeout:g} s") from error
    if check and done.returncode != 0:
        output = (done.stderr + done.stdout).strip() or "no output"
        raise LabError(f"{shlex.join(argv)} failed with status {done.returncode}: {output}")
    return done


class Started(LoggedProcess):
    """A program that runs inside a host, with its output in ``log``. ``stop`` or ``kill`` it."""

    def __init__(
        self, inside: Namespaces, argv: Sequence[str], logs: Path, env: Mapping[str, str] | None = None
    ) -> None:
        name = Path(argv[0]).name
        log = logs / f"{next(_numbers)}-{name}.log"
        super().__init__(name, [*inside.enter, *argv], log, env=environment(env))
        self._program = until(self._find, f"for {self.name} to start")

    def _find(self) -> int | None:
        """Return the process id of the only child of the process that entered the namespaces."""
        if not self.running:
            return -1
        with suppress(psutil.NoSuchProcess, IndexError):
            return int(psutil.Process(self.process.pid).children()[0].pid)
        return None

    @property
    def pid(self) -> int:
        """The process id of the program outside of the host; -1 if it exited before it was found."""
        return self._program

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, if it is running."""
        # As long as its parent has not exited, it has not reaped the program: the id is still valid.
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self._program, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for it; return its exit code, or minus the signal that killed it.

        Raises LabError when it has not exited after ``timeout`` seconds.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name} timed out after {timeout:g} s{self.said()}") from error

    def stop(self, grace: float = 5.0) -> int:
        """Stop it: SIGTERM, SIGKILL after ``grace`` seconds; return its exit code. Safe to call twice."""
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """Kill it with SIGKILL; return its exit code. Safe to call twice."""
        self.signal(signal.SIGKILL)
        return self.wait()

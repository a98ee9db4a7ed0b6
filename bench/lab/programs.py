"""Programs inside a host: run to their end, or started and watched."""

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

Done = subprocess.CompletedProcess[str]

_numbers = itertools.count(1)


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs in a host find: of the caller's shell only where libraries are, and ``changes``."""
    own = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **own, **(changes or {})}


def run(
    inside: Namespaces,
    argv: Sequence[str],
    *,
    timeout: float = PATIENCE,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002  subprocess.run's own word for it
) -> Done:
    """Run ``argv`` inside and return what it printed.

    Raises LabError when it does not end in ``timeout`` seconds (it is killed then), and, with ``check``, when
    it fails, with what it said.
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
        raise LabError(f"{shlex.join(argv)} did not end in {timeout:g} s") from error
    if check and done.returncode != 0:
        said = (done.stderr + done.stdout).strip() or "nothing"
        raise LabError(f"{shlex.join(argv)} failed with status {done.returncode} and said: {said}")
    return done


class Started:
    """A program that runs inside a host, its output going to ``log``. ``stop`` or ``kill`` it."""

    def __init__(
        self, inside: Namespaces, argv: Sequence[str], logs: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = logs / f"{next(_numbers)}-{self.name}.log"
        with self.log.open("wb") as log:
            self._enter = subprocess.Popen(
                [*inside.enter, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(env),
                start_new_session=True,
            )
        self._program = until(f"{self.name} to start", self._find)

    def _find(self) -> int | None:
        """The program is the one child of the process that entered the namespaces."""
        if self._enter.poll() is not None:
            return -1
        with suppress(psutil.NoSuchProcess, IndexError):
            return int(psutil.Process(self._enter.pid).children()[0].pid)
        return None

    @property
    def pid(self) -> int:
        """The program's process id as seen from outside of the host; -1 if it ended before it was seen."""
        return self._program

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._enter.poll() is None

    def output(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal, if it still runs."""
        # While the process that entered has not ended, it has not collected its child: the id is still its.
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self._program, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended; minus the signal, if one ended it.

        Raises LabError when it has not ended after ``timeout`` seconds.
        """
        try:
            return self._enter.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name} did not end in {timeout:g} s{self.said()}") from error

    def stop(self, grace: float = 5.0) -> int:
        """End it: SIGTERM, and SIGKILL after ``grace`` seconds. Its exit code; safe to call twice."""
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._enter.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """End it with SIGKILL. Its exit code; safe to call twice."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def said(self) -> str:
        """The end of its output, to end an error message with."""
        lines = self.output().splitlines()[-15:]
        return "".join(f"\n  {line}" for line in lines) or " and said nothing"

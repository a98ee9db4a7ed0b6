"""Child processes with their output in a log: QEMU, daemons, the ends of a benchmark.

``LoggedProcess`` is what all of them share. ``Child`` never outlives this process, and serves asyncio
(``wait``, ``stop``) and blocking callers (``reap``). A program in a host of the lab is another kind
(``tunnel.bench.lab.programs.Started``): the process started for it only enters the namespaces, and its child
is the program, which is signalled, and killed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunnel.errors import UsageError

DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Command prefix: the kernel kills the program when the thread that started it exits (``PDEATHSIG``)."""

# PDEATHSIG is set only after the fork: a child orphaned before that must not exec at all. A preexec_fn could
# do both, but Python warns about it in a process with threads.
_ORPHAN_CHECK = '[ "$PPID" = "$0" ] && exec "$@"'

_TAIL = 15


def guarded(argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` as a child that never outlives this process."""
    return [*DIES_WITH_PARENT, "/bin/sh", "-c", _ORPHAN_CHECK, str(os.getpid()), *argv]


class LoggedProcess:
    """A started program that leads its own session: a ctrl-C at the terminal does not signal it.

    Standard output and error are appended to ``log``; with ``pipes``, standard input and output are pipes to
    this process instead.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        pipes: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start ``argv``. Raises OSError when that fails."""
        self.name = name
        self.log = log
        with log.open("ab") as output:
            # Popen's context manager waits but never kills.
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                cwd=cwd,
                env=env,
                start_new_session=True,
                text=True,
            )

    @property
    def pid(self) -> int:
        """The process id; not reused until the process has been waited for."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self.process.poll() is None

    def output(self) -> str:
        """Return its output so far; empty when there is none, or the log was removed."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")
        return ""

    def said(self) -> str:
        """Return the output tail, for an error message."""
        lines = self.output().splitlines()[-_TAIL:]
        return "".join(f"\n  {line}" for line in lines) or " (no output)"


class Child(LoggedProcess):
    """A program and its process group, which must be stopped with ``stop``, ``reap`` or ``kill``.

    The kernel kills it when the thread that started it exits: start children in the main thread.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, pipes: bool = False) -> None:
        """Start ``argv``. Raises UsageError when the program is not installed."""
        program = shutil.which(argv[0])
        if program is None:
            raise UsageError(f"{argv[0]} is not on PATH, required for {name}")
        if shutil.which(DIES_WITH_PARENT[0]) is None:
            raise UsageError("setpriv is not on PATH: install util-linux")
        super().__init__(name, guarded([program, *argv[1:]]), log, pipes=pipes)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group, if it still exists."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> int:
        """Kill the group with SIGKILL, reap the program, close its pipes; return its exit code."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # data that it did not read before it exited
                    pipe.close()
        return code

    def reap(self, seconds: float) -> int:
        """Wait up to ``seconds`` for the program to exit, blocking, then kill the rest of the group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        return self.kill()

    async def wait(self) -> int:
        """Wait until it exits; return its exit code (negative: minus the signal)."""
        if self.running:
            await _readable(os.pidfd_open(self.pid))
        return self.process.wait()

    async def stop(self, grace: float = 5.0) -> int:
        """Terminate and reap it: SIGTERM, and SIGKILL after ``grace`` seconds. Safe to call twice.

        When cancelled, kills and reaps it immediately, then propagates the cancellation.
        """
        if self.running:
            self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            return self.kill()
        except asyncio.CancelledError:
            self.kill()
            raise


async def _readable(descriptor: int) -> None:
    """Wait until ``descriptor`` (a pidfd: until its process has ended) is readable, and close it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)

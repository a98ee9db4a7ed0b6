"""Child processes that never outlive this one: QEMU, and helpers of demonstrations and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tunnel.errors import UsageError

_TAIL = 4096


# PDEATHSIG is set only after the fork: a child orphaned before that must not exec at all. A preexec_fn could
# do both, but Python warns about it in a process with threads.
_ORPHAN_CHECK = '[ "$PPID" = "$0" ] && exec "$@"'


class Child:
    """A running program. It must be stopped with ``await stop()``, which also reaps it.

    It runs in its own process group, so that a ctrl-C at the terminal signals only the parent, and the kernel
    kills it when the thread that started it exits (``PDEATHSIG``): start children in the main thread.
    Its standard output and error go to ``log``.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path) -> None:
        """Start ``argv``. Raises UsageError when the program is not installed."""
        program, guard = shutil.which(argv[0]), shutil.which("setpriv")
        if program is None:
            raise UsageError(f"{argv[0]} is not on PATH, required for {name}")
        if guard is None:
            raise UsageError("setpriv is not on PATH: install util-linux")
        self.name = name
        self.log = log
        with log.open("ab") as output:
            # Popen's context manager waits but never kills; stop() does both.
            self._process = subprocess.Popen(
                [
                    *(guard, "--pdeathsig", "KILL", "--"),
                    *("/bin/sh", "-c", _ORPHAN_CHECK, str(os.getpid()), program, *argv[1:]),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process id; not reused until ``stop()`` or ``wait()`` has returned."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    def output(self) -> str:
        """Return the tail of its output, for error messages; empty when there is none."""
        with contextlib.suppress(OSError):
            return self.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        return ""

    async def wait(self) -> int:
        """Wait until it exits; return its exit code (negative: minus the signal)."""
        if self._process.poll() is None:
            await _readable(os.pidfd_open(self._process.pid))
        return self._process.wait()

    async def stop(self, grace: float = 5.0) -> int:
        """Terminate and reap it: SIGTERM, and SIGKILL after ``grace`` seconds. Safe to call twice.

        When cancelled, kills and reaps it immediately, then propagates the cancellation.
        """
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            return self.kill()
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> int:
        """SIGKILL and reap, without waiting for the event loop."""
        self._process.kill()
        return self._process.wait()


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

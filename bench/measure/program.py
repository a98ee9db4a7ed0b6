"""A started program: its CPU time and memory, its listening sockets, its output and its exit.

A program is measured with all its children: several contestants fork one process for each connection.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.errors import TunnelError
from tunnel.proof.cpu_time import process_seconds
from tunnel.virt.process import Child

LISTEN_SECONDS = 20.0

_ACCEPTS = "00010000"  # flags of a listening socket in /proc/net/unix


class BenchError(TunnelError):
    """A benchmark failed; the message ends with the output tail of the failed program."""


@dataclass(frozen=True)
class Memory:
    """Resident set of a program and its children, in bytes."""

    now: int
    peak: int


class Program(Child):
    """One started program, the leader of its own process group."""

    def cpu_seconds(self) -> float:
        """Return user and system time so far, of all threads and children, including exited ones."""
        total = 0.0
        for member in self._members():
            with suppress(ProcessLookupError):
                total += process_seconds(member.pid)
        return total

    def memory(self) -> Memory:
        """Return the current and peak resident set, summed over the program and its children."""
        now = peak = 0
        for member in self._members():
            with suppress(FileNotFoundError, ProcessLookupError):
                now += _status_bytes(member.pid, "VmRSS")
                peak += _status_bytes(member.pid, "VmHWM")
        return Memory(now, peak)

    def wait_listening(self, endpoint: ProgramAddress) -> None:
        """Wait until this program listens on ``endpoint``. Raises BenchError when it exits, or after 20 s.

        Reading the socket table instead of connecting leaves the relay's first connection to the source.
        """
        deadline = time.monotonic() + LISTEN_SECONDS
        while not self._is_listening(endpoint):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} is not listening on {endpoint}{self.said()}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raise BenchError if the program has exited."""
        code = self.process.poll()
        if code is not None:
            raise BenchError(f"{self.name} exited with status {code}{self.said()}")

    def _members(self) -> list[psutil.Process]:
        self.check()
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]

    def _is_listening(self, endpoint: ProgramAddress) -> bool:
        members = self._members()
        if endpoint.is_unix:
            return Path(endpoint.path).is_socket() and _accepts(endpoint.path)
        address = (endpoint.host, endpoint.port)
        try:
            found = [c for member in members for c in member.net_connections("tcp4")]
            return any(c.status == psutil.CONN_LISTEN and c.laddr == address for c in found)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            # OpenSSH hides its sockets from all but root. The port was chosen here: no other program has it.
            every = psutil.net_connections("tcp4")
            return any(c.status == psutil.CONN_LISTEN and c.laddr == address for c in every)


def _accepts(path: str) -> bool:
    """Return whether a socket bound to ``path``, or to a name renamed to it (HAProxy's ``.tmp``), listens."""
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(len(each) > 7 and each[3] == _ACCEPTS and each[7].startswith(path) for each in sockets)


def _status_bytes(pid: int, key: str) -> int:
    # psutil has the resident set, but not its peak.
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has no memory

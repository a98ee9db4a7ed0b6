"""A host's libvirtd: start, stop, kill and reconfigure it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import psutil

from tunnel.bench.lab import layout
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.layout import Settings
from tunnel.bench.lab.programs import Done
from tunnel.bench.lab.waiting import PATIENCE, LabError, until

SOCKET = "/run/libvirt/libvirt-sock"
"""The socket of a host's libvirtd. It also listens on TCP 16509 (plain) and 16514 (TLS)."""

_PID_FILE = "/run/libvirtd.pid"
_ENDING = 60.0
"""Seconds that it may take to exit: its threads get 30 (virNetDaemonRun), and 11.3 sometimes needs them."""
_START = ("libvirtd", "--listen", "--daemon", "--pid-file", _PID_FILE)


class Libvirtd:
    """The libvirtd of one host. Its guests outlive it, and the next one finds them again.

    It belongs to the host, not to the process that started it, so a test may leave a new one running.
    """

    def __init__(
        self, host: LabHostPlan, run: Callable[[tuple[str, ...]], Done], find: Callable[[str], int | None]
    ) -> None:
        """``run`` runs a program in the host, ``find`` returns the process id in a PID file of the host."""
        self._host = host
        self._run = run
        self._find = find
        self._changed = False

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._find(_PID_FILE) is not None

    @property
    def pid(self) -> int:
        """Its process id outside of the host. Raises LabError when it is not running."""
        pid = self._find(_PID_FILE)
        if pid is None:
            raise LabError(f"libvirtd on {self._host.name} is not running{self._said()}")
        return pid

    def start(self) -> None:
        """Start it, unless it is running, and wait until it replies. Raises LabError when it does not."""
        if not self.running:
            done = self._run(_START)
            if done.returncode != 0:
                output = (done.stderr + done.stdout).strip() or "no output"
                raise LabError(f"libvirtd on {self._host.name} failed to start: {output}{self._said()}")
        until(self._answers, f"for libvirtd on {self._host.name} to reply", PATIENCE)

    def stop(self) -> None:
        """Stop it with SIGTERM. Raises LabError when it does not exit."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start another."""
        self.stop()
        self.start()

    def configure(self, *, libvirtd: Settings | None = None, qemu: Settings | None = None) -> None:
        """Restart it with these settings overriding the lab's, in libvirtd.conf and qemu.conf."""
        layout.write_libvirtd_conf(self._host, libvirtd)
        layout.write_qemu_conf(self._host, qemu)
        self._changed = bool(libvirtd or qemu)
        self.restart()

    def restore(self) -> None:
        """Make sure that it runs with the lab's own settings."""
        if self._changed:
            self.configure()
        else:
            self.start()

    def _end(self, number: signal.Signals) -> None:
        pid = self._find(_PID_FILE)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            # Checking ``running`` is not enough: until a zombie is reaped, its threads may hold files open.
            until(lambda: not psutil.pid_exists(pid), f"for libvirtd on {self._host.name} to exit", _ENDING)

    def _answers(self) -> bool:
        _ = self.pid  # raises when it has exited meanwhile
        return self._run(("virsh", "--quiet", "list")).returncode == 0

    def _said(self) -> str:
        log = self._host.outside("/var/log/libvirt/libvirtd.log")
        lines = log.read_text(errors="replace").splitlines()[-10:] if log.exists() else []
        return "".join(f"\n  {line}" for line in lines)

"""A host's libvirtd: started, stopped, killed, and configured anew."""

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
"""Where a host's libvirtd listens. It also listens on TCP 16509 (plain) and 16514 (TLS)."""

_PID_FILE = "/run/libvirtd.pid"
_ENDING = 60.0
"""Seconds that it may take to end: its threads have 30 (virNetDaemonRun), and 11.3 sometimes needs them."""
_START = ("libvirtd", "--listen", "--daemon", "--pid-file", _PID_FILE)


class Libvirtd:
    """The libvirtd of one host. Its guests outlive it, and are found again by the next one.

    It belongs to the host and not to whoever started it, so that a test may leave a new one behind.
    """

    def __init__(
        self, host: LabHostPlan, run: Callable[[tuple[str, ...]], Done], find: Callable[[str], int | None]
    ) -> None:
        """``run`` runs a program in the host, ``find`` finds the process id that a file there names."""
        self._host = host
        self._run = run
        self._find = find
        self._changed = False

    @property
    def running(self) -> bool:
        """Whether there is one."""
        return self._find(_PID_FILE) is not None

    @property
    def pid(self) -> int:
        """Its process id, as seen from outside of the host. Raises LabError when it does not run."""
        pid = self._find(_PID_FILE)
        if pid is None:
            raise LabError(f"libvirtd of {self._host.name} does not run{self._said()}")
        return pid

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers. Raises LabError when it does not."""
        if not self.running:
            done = self._run(_START)
            if done.returncode != 0:
                said = (done.stderr + done.stdout).strip() or "nothing"
                raise LabError(f"libvirtd of {self._host.name} does not start and says: {said}{self._said()}")
        until(f"libvirtd of {self._host.name} to answer", self._answers, PATIENCE)

    def stop(self) -> None:
        """End it as a service manager would. Raises LabError when it does not end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start another."""
        self.stop()
        self.start()

    def configure(self, *, libvirtd: Settings | None = None, qemu: Settings | None = None) -> None:
        """Restart it with these settings over the lab's own, in libvirtd.conf and qemu.conf."""
        layout.write_libvirtd_conf(self._host, libvirtd)
        layout.write_qemu_conf(self._host, qemu)
        self._changed = bool(libvirtd or qemu)
        self.restart()

    def restore(self) -> None:
        """Have it running again with the lab's own settings."""
        if self._changed:
            self.configure()
        else:
            self.start()

    def _end(self, number: signal.Signals) -> None:
        pid = self._find(_PID_FILE)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            # Not until nobody is "running": while a zombie is waited for, its threads may hold its files yet.
            until(f"libvirtd of {self._host.name} to end", lambda: not psutil.pid_exists(pid), _ENDING)

    def _answers(self) -> bool:
        _ = self.pid  # raises when it has ended meanwhile
        return self._run(("virsh", "--quiet", "list")).returncode == 0

    def _said(self) -> str:
        log = self._host.outside("/var/log/libvirt/libvirtd.log")
        lines = log.read_text(errors="replace").splitlines()[-10:] if log.exists() else []
        return "".join(f"\n  {line}" for line in lines)

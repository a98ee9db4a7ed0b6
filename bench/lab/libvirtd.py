"""A host's libvirtd: started, stopped, killed, and configured anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunnel.bench.lab import layout
from tunnel.bench.lab.layout import Settings
from tunnel.bench.lab.plan import Plan
from tunnel.bench.lab.programs import Done, Started
from tunnel.bench.lab.waiting import PATIENCE, LabError, until

SOCKET = "/run/libvirt/libvirt-sock"
"""Where a host's libvirtd listens. It also listens on TCP 16509 (plain) and 16514 (TLS)."""


class Libvirtd:
    """The libvirtd of one host. Its guests outlive it, and are found again by the next one."""

    def __init__(
        self, host: Plan, start: Callable[[Sequence[str]], Started], run: Callable[[Sequence[str]], Done]
    ) -> None:
        self._host = host
        self._start = start
        self._run = run
        self._process: Started | None = None
        self._changed = False

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """Its process id, as seen from outside of the host. Raises LabError when it was not started."""
        if self._process is None:
            raise LabError(f"libvirtd of {self._host.name} was not started")
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it, unless it runs, and wait until it answers. Raises LabError when it does not."""
        if not self.running:
            self._process = self._start(["libvirtd", "--listen"])
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers. Raises LabError, with what it said, when it ends or is silent."""
        until(f"libvirtd of {self._host.name} to answer", self._answers, PATIENCE)

    def stop(self) -> None:
        """End it as a service manager would."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()

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

    def _answers(self) -> bool:
        if self._process is None or not self._process.running:
            said = self._process.said() if self._process else ""
            raise LabError(f"libvirtd of {self._host.name} ended{said}")
        # Asking a socket that is not there yet costs nothing; virsh would.
        if not self._host.outside(SOCKET).is_socket():
            return False
        return self._run(["virsh", "--quiet", "list"]).returncode == 0

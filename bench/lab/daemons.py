"""The mtunnel daemon on a host of the lab."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

from tunnel.bench.lab.configs import CONTROL
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError, until
from tunnel.daemon.control_socket import DaemonStatus, LinkStatus, ask_status
from tunnel.errors import UnreachableError

CONFIG = "/etc/mtunnel/mtunnel.toml"
MTUNNEL = (sys.executable, "-m", "tunnel.cli.main")
"""The ``mtunnel`` command of this checkout, inside a host."""


class Daemon:
    """The daemon of one host and its configuration."""

    def __init__(self, host: LabHostPlan, text: str, start: Callable[[Sequence[str]], Started]) -> None:
        """Write the configuration and start the daemon, without waiting until it serves."""
        self._host = host
        self._start = start
        self.configure(text)
        self.process = self._begin()

    def configure(self, text: str) -> None:
        """Write another configuration; the running daemon does not reload it."""
        self._host.outside(CONFIG).write_text(text)

    @property
    def pid(self) -> int:
        """Its process id outside of the host."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self.process.running

    @property
    def log(self) -> str:
        """Its log since its last start."""
        return self.process.output()

    def status(self) -> DaemonStatus:
        """Return what ``mtunnel status --json`` prints. Raises UnreachableError when it does not serve."""
        return ask_status(self._host.outside(CONTROL))

    def link(self, peer: str) -> LinkStatus:
        """Return the part of ``status`` on ``peer``. Raises LabError when there is no such peer."""
        for link in self.status()["links"]:
            if link["peer"] == peer:
                return link
        raise LabError(f"{self._host.name} has no peer {peer}")

    def wait_serving(self) -> None:
        """Wait until it replies. Raises LabError, with its log, when it exits or does not reply."""
        until(f"mtunnel on {self._host.name} to serve", self._serves)

    def wait_linked(self, peer: str) -> None:
        """Wait until its link with ``peer`` is up. Raises LabError when it does not come up."""
        self.wait_serving()
        try:
            until(f"{self._host.name} to be linked with {peer}", lambda: self.link(peer)["state"] == "up")
        except LabError as error:
            raise LabError(f"{error}{self.process.said()}") from error

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.signal(number)

    def stop(self) -> int:
        """Stop it with SIGTERM; return its exit code. Safe to call twice."""
        return self.process.stop(grace=10.0)

    def kill(self) -> None:
        """Kill it with SIGKILL. Safe to call twice."""
        self.process.kill()

    def restart(self) -> None:
        """Start it again, stopping it first if it runs, and wait until it serves."""
        self.stop()
        self.process = self._begin()
        self.wait_serving()

    def _begin(self) -> Started:
        return self._start([*MTUNNEL, "serve"])  # CONFIG is the default

    def _serves(self) -> bool:
        if not self.running:
            raise LabError(f"mtunnel on {self._host.name} exited{self.process.said()}")
        try:
            self.status()
        except UnreachableError:
            return False
        return True

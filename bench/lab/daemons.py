"""mtunnel's daemon on a host of the lab."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tunnel.bench.lab.configs import CONTROL
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError, until
from tunnel.daemon.control_socket import ask
from tunnel.errors import UnreachableError

CONFIG = "/etc/mtunnel/mtunnel.toml"
MTUNNEL = (sys.executable, "-m", "tunnel.cli.main")
"""The command ``mtunnel`` of this very checkout, inside a host."""


class Daemon:
    """The daemon of one host, with the configuration that it was started with."""

    def __init__(self, host: LabHostPlan, text: str, start: Callable[[Sequence[str]], Started]) -> None:
        """Write the configuration and start the daemon; it need not serve yet."""
        self._host = host
        self._start = start
        self.configure(text)
        self.process = self._begin()

    def configure(self, text: str) -> None:
        """Write another configuration; the running daemon does not know it yet."""
        self._host.outside(CONFIG).write_text(text)

    @property
    def pid(self) -> int:
        """Its process id, as seen from outside of the host."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.running

    @property
    def log(self) -> str:
        """Everything that it has logged since it was last started."""
        return self.process.output()

    def status(self) -> dict[str, Any]:
        """What ``mtunnel status --json`` prints. Raises UnreachableError when it does not serve."""
        facts: dict[str, Any] = ask(self._host.outside(CONTROL), "status")
        return facts

    def link(self, peer: str) -> dict[str, Any]:
        """The part of ``status`` about ``peer``."""
        for link in self.status()["links"]:
            if link["peer"] == peer:
                return dict(link)
        raise LabError(f"{self._host.name} has no peer {peer}")

    def wait_serving(self) -> None:
        """Wait until it answers. Raises LabError, with its log, when it ends or is silent."""
        until(f"mtunnel of {self._host.name} to serve", self._serves)

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
        """End it in order; its exit code. Safe to call twice."""
        return self.process.stop(grace=10.0)

    def kill(self) -> None:
        """End it with SIGKILL. Safe to call twice."""
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
            raise LabError(f"mtunnel of {self._host.name} ended{self.process.said()}")
        try:
            self.status()
        except UnreachableError:
            return False
        return True

"""The mtunnel daemon on a host of the lab."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from tunnel.bench.lab.configs import CONTROL
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError, until
from tunnel.proof.local_daemon import MTUNNEL, LocalDaemon

CONFIG = "/etc/mtunnel/mtunnel.toml"


class Daemon(LocalDaemon[Started]):
    """The daemon of one host and its configuration."""

    def __init__(self, host: LabHostPlan, text: str, start: Callable[[Sequence[str]], Started]) -> None:
        """Write the configuration and start the daemon, without waiting until it serves."""
        self._host = host
        self._start = start
        self.configure(text)
        super().__init__(f"mtunnel on {host.name}", host.outside(CONTROL), self._begin())

    def configure(self, text: str) -> None:
        """Write another configuration; the running daemon does not reload it."""
        self._host.outside(CONFIG).write_text(text)

    @property
    def log(self) -> str:
        """Its log since its last start."""
        return self.process.output()

    def wait_serving(self) -> None:
        """Wait until it replies. Raises TunnelError, with its log, when it exits or does not reply."""
        until(self.serves, f"for {self.name} to serve")

    def wait_linked(self, peer: str) -> None:
        """Wait until its link with ``peer`` is up. Raises TunnelError when it does not come up."""
        try:
            until(lambda: self.is_linked(peer), f"for {self._host.name} to be linked with {peer}")
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

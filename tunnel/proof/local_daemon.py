"""A daemon on this machine that a demonstration, a benchmark or a test has started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Generic, TypeVar

from tunnel.daemon.control_socket import DaemonStatus, LinkStatus, ask_status
from tunnel.errors import TunnelError, UnreachableError
from tunnel.virt.process import LoggedProcess

MTUNNEL = (sys.executable, "-m", "tunnel.cli.main")
"""The ``mtunnel`` command of this installation or checkout."""

P = TypeVar("P", bound=LoggedProcess)


class LocalDaemon(Generic[P]):
    """A daemon's process and control socket. Starting and stopping depend on ``process``."""

    def __init__(self, name: str, control: Path, process: P) -> None:
        self.name = name
        self.control = control
        self.process = process

    @property
    def pid(self) -> int:
        """Its process id outside of namespaces."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether its process is running."""
        return self.process.running

    def status(self) -> DaemonStatus:
        """Return what ``mtunnel status --json`` prints. Raises UnreachableError when it does not serve."""
        return ask_status(self.control)

    def link(self, peer: str) -> LinkStatus:
        """Return the part of ``status`` on ``peer``. Raises TunnelError when there is no such peer."""
        return link(self.control, peer)

    def serves(self) -> bool:
        """Return whether it replies. Raises TunnelError, with its output, when it has exited."""
        if not self.running:
            raise TunnelError(f"{self.name} exited{self.process.said()}")
        try:
            self.status()
        except UnreachableError:
            return False
        return True

    def is_linked(self, peer: str) -> bool:
        """Return whether it replies and its link with ``peer`` is up. Raises TunnelError like ``serves``."""
        return self.serves() and self.link(peer)["state"] == "up"


def link(control: Path, peer: str) -> LinkStatus:
    """Return the part of ``status`` on ``peer``. Raises UnreachableError, TunnelError without such a peer."""
    facts = ask_status(control)
    for found in facts["links"]:
        if found["peer"] == peer:
            return found
    raise TunnelError(f"{facts['host']} has no peer {peer}")

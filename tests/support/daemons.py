"""Hosts on this machine: real ``mtunnel serve`` processes with certificates, configurations and logs.

::

    with TwoHosts(tmp) as hosts, Target() as target:
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        with connect(entry) as caller:
            ...
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import psutil

from tests.support import compiled_engine
from tests.support.pki import Pki
from tunnel.bench.lab import waiting
from tunnel.bench.lab.waiting import LabError
from tunnel.daemon.control_socket import DaemonStatus, LaneStatus, LinkStatus
from tunnel.proof.config_text import config_text, own_user
from tunnel.proof.free_port import free_port
from tunnel.proof.local_daemon import MTUNNEL, LocalDaemon
from tunnel.tls.contexts import TlsFiles
from tunnel.virt.process import DIES_WITH_PARENT, LoggedProcess

WITHIN = 120.0 if "EMULATED" in os.environ else 60.0
"""Timeout in seconds for anything that should take milliseconds: the machine may be busy, or emulated."""

WORKERS = "WORKERS_OF_TESTED_DAEMONS"
"""The environment variable with the number of workers of hosts: ``--workers`` sets it."""


_T = TypeVar("_T")


def until(found: Callable[[], _T | None], what: str, within: float = WITHIN) -> _T:
    """Poll ``found`` until it returns a true value, and return that. Raises LabError on timeout."""
    return waiting.until(found, what, within)


class Host:
    """One host: its configuration, which may be changed before ``start``, and its daemon."""

    def __init__(self, name: str, ip: str, files: TlsFiles, directory: Path) -> None:
        self.name = name
        self.files = files
        self.directory = directory
        self.address = f"{ip}:{free_port(ip)}"
        self.control = directory / "control.sock"
        self.crl: Path | None = None
        self.drain_timeout = ""
        self.transport: dict[str, object] = {}
        self.workers = int(os.environ.get(WORKERS, "1"))
        self.peers: dict[str, str] = {}
        self.egress: dict[str, list[str]] = {}
        self.ingresses: list[dict[str, object]] = []
        self.config = directory / "mtunnel.toml"
        self._log = directory / "log"
        self._ip = ip
        self._daemon: LocalDaemon[LoggedProcess] | None = None
        directory.mkdir()

    # Its configuration.

    def knows(self, peer: Host, address: str = "") -> None:
        """Make ``peer`` a [[peer]] of this host, with its own address or ``address``."""
        self.peers[peer.name] = address or peer.address
        self.egress.setdefault(peer.name, [])

    def leads_to(self, peer: Host, target: str, listen: str = "", users: tuple[str, ...] = ()) -> str:
        """Add an ingress to ``target`` on ``peer``, and allow it there; return the listen address.

        With ``listen`` of the form ``redirect:``, ``target`` is the egress rule for its ports.
        """
        peer.egress[self.name].append(target)
        entry = listen or f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
        ingress: dict[str, object] = {
            "peer": peer.name,
            "listen": entry,
            "users": users or own_user(),
        }
        self.ingresses.append(ingress if entry.startswith("redirect:") else ingress | {"target": target})
        return entry

    def write_config(self) -> Path:
        """Write the configuration file."""
        host = {"name": self.name, "listen": self.address, "control": self.control}
        files = self.files
        text = config_text(
            host | {"drain_timeout": self.drain_timeout or None},
            {"ca": files.ca, "cert": files.cert, "key": files.key, "crl": self.crl},
            {"workers": self.workers} | self.transport,
            [{"name": peer, "address": at, "egress": self.egress[peer]} for peer, at in self.peers.items()],
            self.ingresses,
        )
        self.config.write_text(text)
        return self.config

    # Its daemon.

    def start(self, *options: str, most_files: int | None = None, redirected: str = "") -> None:
        """Start the daemon, with ``most_files`` as its descriptor limit, without waiting until it serves.

        ``redirected``: a shell redirection, such as ``2>/dev/full``, if its log is not to go to the file.
        """
        shell = ("/bin/sh", "-c", f'exec "$@" {redirected}', "sh") if redirected else ()
        argv = [*DIES_WITH_PARENT, *shell, *MTUNNEL, "serve", *options, "--config", str(self.write_config())]
        env = os.environ | compiled_engine.environment()
        process = LoggedProcess(self.name, argv, self._log, cwd=self.directory, env=env)
        self._daemon = LocalDaemon(self.name, self.control, process)
        if most_files is not None:
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most_files, most_files))

    @property
    def daemon(self) -> LocalDaemon[LoggedProcess]:
        """The daemon that was started last."""
        assert self._daemon is not None, f"{self.name} was not started"
        return self._daemon

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.daemon.pid

    @property
    def rss(self) -> int:
        """Resident memory of the daemon in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def descriptors(self) -> int:
        """The number of open descriptors of the daemon."""
        return int(psutil.Process(self.pid).num_fds())

    def wait_serving(self) -> None:
        """Wait until the daemon replies on its control socket."""
        until(self.daemon.serves, f"for {self.name} to serve")

    def status(self) -> DaemonStatus:
        """Return what ``mtunnel status --json`` prints."""
        return self.daemon.status()

    def link(self, peer: Host) -> LinkStatus:
        """Return the part of ``status`` on ``peer``."""
        return self.daemon.link(peer.name)

    def reasons(self, peer: Host) -> list[str]:
        """Return the reasons of the incidents with ``peer`` in ``status``."""
        return [incident["reason"] for incident in self.link(peer)["incidents"]]

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        os.kill(self.pid, number)

    def wait(self, within: float = WITHIN) -> int:
        """Wait until the daemon exits; return its exit code."""
        return self.daemon.process.process.wait(within)

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, and reap it. Safe to call twice."""
        if self._daemon is not None:
            process = self._daemon.process.process
            process.kill()
            process.wait()

    # Its log.

    @property
    def log(self) -> str:
        """The log of all its daemons."""
        return self._log.read_text() if self._log.exists() else ""

    def wait_log(self, pattern: str, within: float = WITHIN) -> re.Match[str]:
        """Wait until a line of the log matches ``pattern``; return the match."""
        try:
            return until(lambda: re.search(pattern, self.log), f"for {pattern!r}", within)
        except LabError as error:
            raise LabError(f"{self.name}: {error}\n{self.log}") from None


class TwoHosts:
    """Hosts ``a`` and ``b``, peers of each other, below ``directory``. Leaving the context kills them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = Pki(_made(directory / "pki"))
        self.a = self.another("hosta", "127.0.0.2")
        self.b = self.another("hostb", "127.0.0.3")
        self.a.knows(self.b)
        self.b.knows(self.a)

    def another(self, name: str, ip: str) -> Host:
        """Create a host with a certificate of the same authority, without peers."""
        host = Host(name, ip, self.pki.host(name), self.directory / name)
        self._hosts = [*getattr(self, "_hosts", []), host]
        return host

    def start(self) -> None:
        """Start both daemons, and wait until they are linked."""
        self.a.start()
        self.b.start()
        self.wait_up()

    def wait_up(self) -> None:
        """Wait until both daemons serve and are linked."""
        for host, peer in self.both_ways:
            until(partial(host.daemon.is_linked, peer.name), f"for {host.name} to be linked")

    @property
    def both_ways(self) -> tuple[tuple[Host, Host], tuple[Host, Host]]:
        """Each host with the other as its peer."""
        return (self.a, self.b), (self.b, self.a)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.kill()
            assert "level=error" not in host.log, f"{host.name} logged an error:\n{host.log}"
            print(f"--- log of {host.name}\n{host.log}")


def standing_lanes(host: Host, peer: Host) -> list[LaneStatus]:
    """Return the lanes of the primary session with ``peer`` in ``status``: with one worker, all."""
    lanes = host.link(peer)["lanes"]
    return [lane for lane in lanes if lane.get("session", "standing") == "standing"]


def is_up(host: Host, peer: Host) -> bool:
    """Return whether the link of ``host`` to ``peer`` is up."""
    return host.link(peer)["state"] == "up"


def is_idle(host: Host, peer: Host) -> bool:
    """Return whether ``host`` has no stream with ``peer``."""
    return not host.link(peer)["streams"]


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory

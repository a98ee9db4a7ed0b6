"""Two hosts on one machine: real daemons on loopback addresses, with temporary certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Self

from tunnel.certs.authority import Authority
from tunnel.daemon.control_socket import DaemonStatus
from tunnel.errors import UnreachableError
from tunnel.proof.config_text import config_text, own_user
from tunnel.proof.free_port import free_port
from tunnel.proof.local_daemon import MTUNNEL, LocalDaemon
from tunnel.virt.polling import until
from tunnel.virt.process import Child

ADDRESSES: Mapping[str, str] = {"hosta": "127.0.0.2", "hostb": "127.0.0.3"}
PEER: Mapping[str, str] = {"hosta": "hostb", "hostb": "hosta"}
_INGRESS_ADDRESS = "127.0.1.2"
_START = 20.0  # seconds for both daemons to start and their link to come up


class IngressKind(StrEnum):
    """How the source's QEMU connects to its daemon."""

    TCP = "tcp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Route:
    """Where the source's QEMU connects and the destination's listens, in the syntax of QEMU and mtunnel."""

    ingress: str
    target: str

    @classmethod
    def through(cls, kind: IngressKind, directory: Path) -> Self:
        """Return a route with a free port, or with sockets in ``directory``."""
        if kind is IngressKind.UNIX:
            return cls(f"unix:{directory}/ingress.sock", f"unix:{directory}/target.sock")
        port = free_port(_INGRESS_ADDRESS, "127.0.0.1")
        return cls(f"tcp:{_INGRESS_ADDRESS}:{port}", f"tcp:127.0.0.1:{port}")


class TwoDaemons:
    """The daemons ``hosta`` and ``hostb``, and the link between them. Use as an async context manager."""

    def __init__(self, directory: Path, route: Route) -> None:
        self.route = route
        self.daemons: dict[str, LocalDaemon[Child]] = {}
        self._directory = directory

    @classmethod
    async def start(cls, directory: Path, kind: IngressKind) -> Self:
        """Create certificates and configurations in ``directory``, start both daemons, wait for their link.

        Raises UnreachableError, with the log tails of both daemons, when the link is not up in 20 seconds.
        """
        stage = cls(directory, Route.through(kind, directory))
        try:
            stage._write_files()
            for host in ADDRESSES:
                stage.daemons[host] = stage._spawn(host)
            await stage._wait_up()
        except BaseException:
            await stage.stop()
            raise
        return stage

    async def status(self, host: str) -> DaemonStatus:
        """Return the ``mtunnel status --json`` of ``host``."""
        return await asyncio.to_thread(self.daemons[host].status)

    def logs(self) -> str:
        """Return the last log lines of each daemon, for error messages."""
        lines = (
            (host, line)
            for host, daemon in self.daemons.items()
            for line in daemon.process.output().splitlines()[-5:]
        )
        return "\n".join(f"{host}: {line}" for host, line in lines)

    async def stop(self) -> None:
        """End both daemons and reap them. Safe to call twice."""
        await asyncio.gather(*(daemon.process.stop() for daemon in self.daemons.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _control(self, host: str) -> Path:
        return self._directory / f"{host}.sock"

    def _write_files(self) -> None:
        authority = Authority.create(self._directory / "certs")
        port = free_port(*ADDRESSES.values())
        for host in ADDRESSES:
            authority.issue(host)
            (self._directory / f"{host}.toml").write_text(self._config(host, port))

    def _config(self, host: str, port: int) -> str:
        peer = PEER[host]
        egress = [self.route.target] if host == "hostb" else []
        ingress = {
            "peer": peer,
            "listen": self.route.ingress,
            "target": self.route.target,
            "users": own_user(),
        }
        return config_text(
            {"name": host, "listen": f"{ADDRESSES[host]}:{port}", "control": self._control(host)},
            {"ca": "certs/ca.pem", "cert": f"certs/{host}.pem", "key": f"certs/{host}.key"},
            peers=[{"name": peer, "address": f"{ADDRESSES[peer]}:{port}", "egress": egress}],
            ingresses=[ingress] if host == "hosta" else [],
        )

    def _spawn(self, host: str) -> LocalDaemon[Child]:
        name, argv = (
            f"the daemon of {host}",
            [*MTUNNEL, "serve", "--config", str(self._directory / f"{host}.toml")],
        )
        return LocalDaemon(name, self._control(host), Child(name, argv, self._directory / f"{host}.log"))

    async def _wait_up(self) -> None:
        def up() -> bool:
            return all(daemon.is_linked(PEER[host]) for host, daemon in self.daemons.items())

        try:
            await until(partial(asyncio.to_thread, up), within=_START, every=0.05)
        except TimeoutError:
            raise UnreachableError(
                f"timed out after {_START:g} s waiting for the link between the daemons:\n{self.logs()}"
            ) from None

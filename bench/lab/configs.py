"""Configurations of mtunnel for the lab's hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tunnel.bench.lab.host_plan import PORT, LabHostPlan
from tunnel.proof.config_text import config_text

CONTROL = "/run/mtunnel/control.sock"
MIGRATION_PORTS = "tcp:127.0.0.1:49152-49215"


@dataclass(frozen=True, slots=True)
class LabIngress:
    """An ``[[ingress]]`` to ``peer``; None leaves mtunnel's default."""

    peer: str
    listen: str
    target: str | None = None
    users: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class LabPeer:
    """A ``[[peer]]``: its name, ``ADDRESS:PORT``, and what it may reach on this host."""

    name: str
    address: str
    egress: Sequence[str] = (MIGRATION_PORTS,)

    @classmethod
    def of(cls, host: LabHostPlan, egress: Sequence[str] = (MIGRATION_PORTS,)) -> LabPeer:
        """Return a lab host as a peer, at its first address."""
        return cls(host.name, f"{host.address}:{PORT}", egress)


@dataclass(frozen=True, slots=True)
class LabConfig:
    """A complete configuration. ``host``, ``tls`` and ``transport`` override the lab's settings."""

    plan: LabHostPlan
    peers: Sequence[LabPeer]
    ingresses: Sequence[LabIngress] = ()
    host: Mapping[str, object] = field(default_factory=dict)
    tls: Mapping[str, object] = field(default_factory=dict)
    transport: Mapping[str, object] = field(default_factory=dict)

    def text(self) -> str:
        """Return the text of the file."""
        name = self.plan.name
        host = {"name": name, "listen": f"0.0.0.0:{PORT}", "control": CONTROL} | dict(self.host)
        tls = {"ca": "ca.pem", "cert": f"{name}.pem", "key": f"{name}.key"} | dict(self.tls)
        return config_text(host, tls, self.transport, map(asdict, self.peers), map(asdict, self.ingresses))

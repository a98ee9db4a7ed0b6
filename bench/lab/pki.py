"""Certificates of the lab, as ``mtunnel certs issue`` makes them, in the paths of mtunnel, libvirt and QEMU.

Each host has one certificate for all three, as server and as client.
"""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path

from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.certs.authority import Authority


def lay_out(authority: Authority, host: LabHostPlan) -> None:
    """Write the certificate of ``host`` into its /etc: /etc/pki/{CA,libvirt,qemu} and /etc/mtunnel."""
    etc = host.outside("/etc")
    own = authority.issue(host.name, dns=[host.fqdn], ips=_addresses(host))
    for ca in ("pki/CA/cacert.pem", "pki/qemu/ca-cert.pem", "mtunnel/ca.pem"):
        _copy(authority.files.cert, etc / ca)
    for kind in ("server", "client"):
        _copy(own.cert, etc / f"pki/libvirt/{kind}cert.pem")
        _copy(own.key, etc / f"pki/libvirt/private/{kind}key.pem")
        # QEMU reads these, and is not root.
        _copy(own.cert, etc / f"pki/qemu/{kind}-cert.pem")
        _copy(own.key, etc / f"pki/qemu/{kind}-key.pem", mode=0o644)
    _copy(own.cert, etc / f"mtunnel/{host.name}.pem")
    _copy(own.key, etc / f"mtunnel/{host.name}.key")


def _copy(source: Path, target: Path, mode: int | None = None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    if mode is not None:
        target.chmod(mode)


def _addresses(host: LabHostPlan) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return [ipaddress.ip_address(text) for text in (host.address, host.second_address, host.address6)]

"""The targets that a migration will request from its peer, by the configuration.

Pure functions. The listen addresses are in the URIs from ``uris``; each leads through an ingress to a target,
which the peer must allow. Connections that use no ingress are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby

from tunnel.daemon import rpc
from tunnel.daemon.config import Config, IngressConfig
from tunnel.daemon.uris import Entry, Way
from tunnel.relay.address import (
    ListenAddress,
    RedirectAddress,
    TargetAddress,
    TcpAddress,
    UnixAddress,
    parse_listen,
)
from tunnel.relay.allow_list import TcpRule

MOST_PORTS = 512
"""Limit of ports of a range that are probed; of a larger range the first ones, and the last."""

_LOCALHOST = "127.0.0.1"


def of_way(config: Config, peer: str, way: Way, *, disks: bool) -> list[TargetAddress]:
    """Return the targets for a guest's memory under libvirt, and with ``disks`` those of its disks."""
    if way.any_port:  # libvirt chooses the port, and another one for disks
        (ingress,) = (each for each in config.ingresses if str(each.listen) == way.ingress)
        return list(_ports(ingress))
    near = (way.memory, way.disks if disks else None)
    return _far(config, peer, (address for address in near if address is not None))


def ingresses_of(config: Config, peer: str, way: Way, *, disks: bool) -> list[IngressConfig]:
    """Return the ingresses that the source's QEMU connects to, for memory and, with ``disks``, disks."""
    near = {str(way.memory), *([str(way.disks)] if disks else [])}
    return [
        each
        for each in config.ingresses
        if each.peer == peer and (str(each.listen) == way.ingress or str(each.listen) in near)
    ]


def of_libvirt(config: Config, peer: str, uri: str) -> list[TargetAddress]:
    """Return the targets for libvirt's RPC; none if ``uri`` does not use the tunnel."""
    near = rpc.address_of(uri)
    return [] if near is None else _far(config, peer, [near])


def of_qemu(config: Config, peer: str, entry: Entry, monitor: str = "") -> list[TargetAddress]:
    """Return the targets without libvirt; ``monitor`` is the path of the destination's QMP socket."""
    near = [parse_listen(entry.uri)]
    with suppress(ValueError):  # a path that no ingress can have
        near.append(parse_listen(f"unix:{monitor}"))
    return _far(config, peer, near)


def spans(targets: Iterable[TargetAddress]) -> list[str]:
    """Return ``targets`` as rules for an egress list: consecutive ports are merged into a range."""
    tcp = sorted({(each.host, each.port) for each in targets if isinstance(each, TcpAddress)})
    found = []
    for (host, _), group in groupby(enumerate(tcp), key=lambda item: (item[1][0], item[1][1] - item[0])):
        ports = [port for _, (_, port) in group]
        found.append(str(TcpRule(host, ports[0], ports[-1])))
    return [*found, *sorted({str(each) for each in targets if isinstance(each, UnixAddress)})]


def _far(config: Config, peer: str, near: Iterable[ListenAddress]) -> list[TargetAddress]:
    mine = [ingress for ingress in config.ingresses if ingress.peer == peer]
    return [target for address in near if (target := _behind(mine, address)) is not None]


def _behind(ingresses: Iterable[IngressConfig], near: ListenAddress) -> TargetAddress | None:
    """Return the target of a connection to ``near``; None if no ingress accepts it."""
    for ingress in ingresses:
        match ingress.listen, near:
            case listen, _ if listen == near:
                return ingress.target
            case RedirectAddress(host, first, last), TcpAddress(same, port) if host == same:
                if first <= port <= last:
                    return TcpAddress(_LOCALHOST, port)
    return None


def _ports(ingress: IngressConfig) -> Iterator[TargetAddress]:
    """Yield the targets of a redirected range."""
    if isinstance(ingress.listen, RedirectAddress):
        first, last = ingress.listen.first_port, ingress.listen.last_port
        for port in {*range(first, min(first + MOST_PORTS - 1, last)), last}:
            yield TcpAddress(_LOCALHOST, port)

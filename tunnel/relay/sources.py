"""Sources of connections: the key under which an address is counted, and which addresses belong to peers.

None of this authenticates: a connection from a peer's address only gets better admission limits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping

INTERVAL = 60.0
"""Seconds after which the names in ``[[peer]] address`` are resolved again."""

_NETWORK = 64


def source_of(address: str) -> str:
    """Return the source of an IP address: itself, or for IPv6 its /64, in which a host can use any address.

    The interface of a link-local address is ignored: sockets omit it.
    """
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback or parsed.is_link_local:
        return str(parsed)
    return str(ipaddress.IPv6Network((int(parsed), _NETWORK), strict=False))


class PeerSources:
    """The sources of each peer: those of its configured address, and the last one that authenticated as it.

    ``addresses`` are host names or IP addresses by peer. Names have no sources until ``keep`` runs.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        self._configured: dict[str, frozenset[str]] = {}
        self._proved: dict[str, str] = {}
        self._at: dict[str, set[str]] = {}
        for peer, address in addresses.items():
            try:
                self._configured[peer] = frozenset({source_of(str(ipaddress.ip_address(address)))})
            except ValueError:
                self._names[peer] = address
        self._index()

    def peers_at(self, source: str) -> frozenset[str] | set[str]:
        """Return the peers that may connect from ``source``."""
        return self._at.get(source, frozenset())

    def proved(self, peer: str, source: str) -> None:
        """Record that a connection from ``source`` authenticated as ``peer``."""
        if self._proved.get(peer) != source:
            self._proved[peer] = source
            self._index()

    async def keep(self) -> None:
        """Resolve names periodically. Never returns, unless there are none."""
        while self._names:
            for peer, name in self._names.items():
                if found := await _resolve(name):  # else keep the last result
                    self._configured[peer] = found
            self._index()
            await asyncio.sleep(INTERVAL)

    def _index(self) -> None:
        self._at = {}
        for peer, sources in self._configured.items():
            for source in sources:
                self._at.setdefault(source, set()).add(peer)
        for peer, source in self._proved.items():
            self._at.setdefault(source, set()).add(peer)


async def _resolve(name: str) -> frozenset[str]:
    """Return the sources of a host name; none if it cannot be resolved."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(source_of(str(address[0])) for *_, address in found)

"""Two daemons with everything that ``bench abuse`` attacks: a port, ingresses, a third host's certificate.

::

    entry ──► [ side a ] ══ link ══► [ side b ] ──► exit            bulk
    twin  ──►                                   ──► twin_exit       bulk whose every byte is compared
    forbidden, forbidden_unix ──►               ──► exit            user nobody is not allowed
    permitted ──►                               ──► busy            user nobody is allowed
    still ──►                                   ──► held            the target never reads; unix sockets
                         hostc, at 127.0.0.5 ══►                ──► held
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.relay_commands import (
    Sides,
    mtunnel_host,
    mtunnel_ingress,
    mtunnel_peer,
    mtunnel_sides,
)
from tunnel.bench.measure.site import ADDRESS_A, HOST_A, HOST_B, Site, lay_out
from tunnel.certs.authority import Authority
from tunnel.certs.pair_files import Pair

HOST_C = "hostc"
ADDRESS_C = "127.0.0.5"
SEVERAL = ("root", "daemon", "bin")
"""More users than the mode of a unix socket can express, so that the daemon checks each connection."""


@dataclass(frozen=True)
class Exposed:
    """Addresses and certificates of the setup above; plain listeners are at ``plain`` and ``plain_unix``."""

    site: Site
    pair_c: Pair
    listen_a: ProgramAddress
    twin: ProgramAddress
    twin_exit: ProgramAddress
    forbidden: ProgramAddress
    forbidden_unix: ProgramAddress
    permitted: ProgramAddress
    busy: ProgramAddress
    still: ProgramAddress
    held: ProgramAddress
    plain: ProgramAddress
    plain_unix: ProgramAddress

    def sides(self, memory: tuple[str, str] = ("", "")) -> Sides:
        """Return the commands of the two daemons, with this ``memory`` each; "" is the default."""
        site = self.site
        memory_a, memory_b = ({"memory": each or None} for each in memory)
        config_a = mtunnel_host(site, HOST_A, self.listen_a, site.pair_a, memory_a)
        config_a += mtunnel_peer(HOST_B, site.link)
        for entry, target, users in (
            (site.entry, site.exit, ()),
            (self.twin, self.twin_exit, ()),
            (self.forbidden, site.exit, SEVERAL),
            (self.forbidden_unix, site.exit, SEVERAL),
            (self.permitted, self.busy, ("nobody",)),
            (self.still, self.held, ()),
        ):
            config_a += mtunnel_ingress(HOST_B, entry, target, users)
        config_b = mtunnel_host(site, HOST_B, site.link, site.pair_b, memory_b)
        config_b += mtunnel_peer(HOST_A, self.listen_a, (site.exit, self.twin_exit, self.busy, self.held))
        config_b += mtunnel_peer(HOST_C, free_tcp(ADDRESS_C), (self.held,))
        return mtunnel_sides(site, config_a, config_b)


def expose(directory: Path, congestion: str) -> Exposed:
    """Create everything in ``directory``, which other users may traverse from now on to reach sockets."""
    os.chmod(directory, 0o711)  # noqa: PTH101, S103  the keys in it have their own modes
    site = lay_out(directory, congestion)
    return Exposed(
        site=site,
        pair_c=Authority.load(directory / "pki").issue(HOST_C),
        listen_a=free_tcp(ADDRESS_A),
        twin=free_tcp(ADDRESS_A),
        twin_exit=free_tcp("127.0.0.1"),
        forbidden=free_tcp(ADDRESS_A),
        forbidden_unix=ProgramAddress(path=str(directory / "forbidden.sock")),
        permitted=free_tcp(ADDRESS_A),
        busy=free_tcp("127.0.0.1"),
        still=ProgramAddress(path=str(directory / "still.sock")),
        held=ProgramAddress(path=str(directory / "held.sock")),
        plain=free_tcp("127.0.0.1"),
        plain_unix=ProgramAddress(path=str(directory / "plain.sock")),
    )

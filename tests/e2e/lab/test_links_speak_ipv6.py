"""Two hosts with only IPv6 between them migrate a guest, with only port 16515 open."""

from __future__ import annotations

import pytest

from tests.support.migrations import LIBVIRT, arrived, both_ways, migrate
from tunnel.bench.lab.configs import MIGRATION_PORTS, LabConfig, LabPeer
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import PORT, LabHostPlan
from tunnel.bench.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]

NO_IPV4 = """
add table inet modern
add chain inet modern input { type filter hook input priority -10; }
add rule inet modern input iif != lo meta nfproto ipv4 drop
"""


def at(host: LabHostPlan) -> str:
    return f"[{host.address6}]"


def serve(host: LabHost, listen: str) -> None:
    """Start its daemon, with the IPv6 address of its peer."""
    peer = LabPeer(host.peer.name, f"{at(host.peer)}:{PORT}", (MIGRATION_PORTS, LIBVIRT))
    ways = [way for way in both_ways() if way.peer == peer.name]
    host.start_daemon(LabConfig(host.plan, [peer], ways, {"listen": f"{listen}:{PORT}"}))


@pytest.mark.parametrize("certain", [False, True], ids=["any address", "one address"])
def test_guest_crosses_a_link_over_ipv6(lab: Lab, certain: bool) -> None:
    guest = lab.start_guest()
    for host in lab.hosts:
        host.run(["nft", "--file", "-"], input=NO_IPV4)
        serve(host, at(host.plan) if certain else "[::]")
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
        (lane,) = host.daemons[-1].link(host.peer.name)["lanes"]
        ends = [lane[end].rsplit(":", 1)[0] for end in ("local", "remote")]
        assert ends == [at(host.plan), at(host.peer)]
    migrate(lab, "--p2p")
    arrived(lab, guest)

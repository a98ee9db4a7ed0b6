"""The tunnel does not depend on name service, the first interface or libvirt's port range."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.migrations import (
    LIBVIRT,
    LIBVIRT_AT,
    arrived,
    both_ways,
    ingress,
    link,
    migrate,
    redirect,
    rpc,
    stayed,
)
from tunnel.bench.lab import layout
from tunnel.bench.lab.configs import MIGRATION_PORTS, LabConfig, LabIngress, LabPeer
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.units import MIB

pytestmark = [pytest.mark.root, pytest.mark.slow]

NOBODY = "192.0.2.99"
NO_FIRST_INTERFACE = """
add table inet broken
add chain inet broken input { type filter hook input priority -10; }
add rule inet broken input iifname eth0 drop
"""


def unknown(host: LabHost) -> None:
    layout.write_hosts(host.plan, (host.plan,))


def misplaced(host: LabHost) -> None:
    layout.write_hosts(host.plan, (host.plan, replace(host.peer, address=NOBODY)))


@pytest.mark.parametrize("spoil", [unknown, misplaced])
def test_broken_names_do_not_matter(lab: Lab, spoil: Callable[[LabHost], None]) -> None:
    guest = lab.start_guest()
    link(lab)
    for host in lab.hosts:
        spoil(host)
    migrate(lab, "--p2p")
    arrived(lab, guest)


def test_without_the_hypervisor_uri_names_do_matter(lab: Lab) -> None:
    """Otherwise the previous test would be meaningless."""
    guest = lab.start_guest()
    link(lab)
    unknown(lab.a)
    done = lab.a.virsh("migrate", "--live", "--p2p", "web1", LIBVIRT_AT["hostb"], check=False)
    assert "hostb.lab" in done.stderr
    stayed(lab, guest)


def test_link_uses_a_chosen_interface(lab: Lab) -> None:
    """Both hosts listen on their second interface only, and dial from it; the first is blocked."""
    guest = lab.start_guest()
    for host in lab.hosts:
        host.run(["nft", "--file", "-"], input=NO_FIRST_INTERFACE)
        peer = LabPeer(host.peer.name, f"{host.peer.second_address}:{PORT}", (MIGRATION_PORTS, LIBVIRT))
        ways = [way for way in both_ways() if way.peer == peer.name]
        host.start_daemon(
            LabConfig(host.plan, [peer], ways, {"listen": f"{host.plan.second_address}:{PORT}"})
        )
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
        (lane,) = host.daemons[-1].link(host.peer.name)["lanes"]
        ends = [lane[end].rsplit(":", 1)[0] for end in ("local", "remote")]
        assert ends == [host.plan.second_address, host.peer.second_address]
    migrate(lab, "--p2p")
    arrived(lab, guest)


def test_libvirts_port_range_may_be_changed(lab: Lab) -> None:
    """Only four ports are allowed: libvirt's range, the alias and the egress list agree."""
    lab.b.libvirtd.configure(qemu={"migration_port_min": 61000, "migration_port_max": 61003})
    guest = lab.start_guest(disks=[Disk(4 * MIB)])
    guest.prepare_disks(lab.b)
    link(lab, [redirect("hostb", "61000-61003"), rpc("hostb")], egress=["tcp:127.0.0.1:61000-61003"])
    migrate(lab, "--copy-storage-all")
    arrived(lab, guest)
    assert ingress(lab.a, "redirect:")["accepted"] == 2


def test_two_ports_chosen_by_hand_are_enough(lab: Lab) -> None:
    """Without nftables at the source: one listener for memory, one for disks."""
    guest = lab.start_guest(disks=[Disk(4 * MIB)])
    guest.prepare_disks(lab.b)
    ports = ("tcp:127.0.1.2:49200", "tcp:127.0.1.2:49201")
    link(
        lab,
        [rpc("hostb"), *(LabIngress("hostb", port) for port in ports)],
        egress=["tcp:127.0.0.1:49200-49201"],
    )
    options = ("--migrateuri=tcp://127.0.1.2:49200", "--disks-port", "49201", "--listen-address", "127.0.0.1")
    migrate(lab, "--copy-storage-all", *options)
    arrived(lab, guest)
    assert "mtunnel" not in lab.a.run(["nft", "list", "tables"]).stdout


def test_port_that_the_peer_does_not_allow_is_refused(lab: Lab) -> None:
    guest = lab.start_guest()
    link(lab, egress=["tcp:127.0.0.1:49200-49215"])
    assert migrate(lab, "--p2p", check=False).returncode != 0
    assert "tcp:127.0.0.1:49152" in json.dumps(lab.a.daemons[-1].link("hostb")["incidents"])
    stayed(lab, guest)

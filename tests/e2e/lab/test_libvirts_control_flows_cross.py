"""Managed direct and peer-to-peer migrations cross the one open port, libvirt's own calls with them."""

from __future__ import annotations

import pytest

from tests.support.migrations import (
    LIBVIRT_AT,
    arrived,
    begin,
    finished,
    ingress,
    link,
    migrate,
    nobody_else_was_let_in,
)
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_managed_direct_migration_crosses(lab: Lab) -> None:
    guest = lab.start_guest()
    link(lab)
    migrate(lab)
    arrived(lab, guest)
    assert ingress(lab.a, "redirect:")["accepted"] == 1


def test_peer_to_peer_migration_crosses(lab: Lab) -> None:
    guest = lab.start_guest()
    link(lab)
    migrate(lab, "--p2p")
    arrived(lab, guest)


def test_destination_may_fetch_a_guest(lab: Lab) -> None:
    """The client on B calls A through the tunnel, and its own libvirt directly."""
    guest = lab.start_guest()
    link(lab)
    connection = ("--connect", LIBVIRT_AT["hosta"])
    lab.b.virsh(*connection, "migrate", "--live", "web1", "qemu:///system", "tcp://127.0.1.2")
    arrived(lab, guest)


def test_uri_for_the_source_may_differ_from_the_clients(lab: Lab) -> None:
    """Three URIs: the client's on B for A, then A's for B, which is invalid on B, and that of the data."""
    guest = lab.start_guest()
    link(lab)
    connection = ("--connect", LIBVIRT_AT["hosta"])
    assert lab.b.virsh("--connect", LIBVIRT_AT["hostb"], "uri", check=False).returncode != 0
    lab.b.virsh(*connection, "migrate", "--live", "--p2p", "web1", LIBVIRT_AT["hostb"], "tcp://127.0.1.2")
    arrived(lab, guest)


def test_guest_returns_by_the_same_route(lab: Lab) -> None:
    guest = lab.start_guest(persistent=False)
    link(lab)
    migrate(lab, "--p2p")
    arrived(lab, guest, left="absent")
    finished(begin(lab, "--p2p", source=lab.b))
    assert lab.states("web1") == ("running", "absent")
    guest.verify(lab.a)
    nobody_else_was_let_in(lab)


@pytest.mark.parametrize("uri", ["qemu+tcp://hostb.lab/system", "qemu+tls://hostb.lab/system"])
def test_without_the_tunnel_the_firewall_blocks(lab: Lab, uri: str) -> None:
    """Otherwise the other tests would be meaningless."""
    guest = lab.start_guest()
    lab.b.firewall.close(but=(PORT,), reject=True)  # rejected immediately; a drop would take minutes
    assert lab.a.virsh("migrate", "--live", "web1", uri, check=False).returncode != 0
    assert lab.b.firewall.refused() == {16509 if "tcp" in uri else 16514: 1}
    assert lab.states("web1") == ("running", "absent")
    guest.verify(lab.a)

"""multifd channels, copied storage and QEMU's own TLS go through the one port with the main stream."""

from __future__ import annotations

import pytest

from tests.support.migrations import arrived, ingress, link, migrate, stayed
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.lab import Lab
from tunnel.errors import VerificationError
from tunnel.units import MIB

pytestmark = [pytest.mark.root, pytest.mark.slow]

TLS = ("--tls", "--tls-destination", "hostb.lab")


@pytest.mark.parametrize(("channels", "flow"), [(4, ("--p2p",)), (16, ())], ids=["4-p2p", "16-direct"])
def test_parallel_connections_cross(lab: Lab, channels: int, flow: tuple[str, ...]) -> None:
    guest = lab.start_guest()
    link(lab)
    migrate(lab, "--parallel", "--parallel-connections", str(channels), *flow)
    arrived(lab, guest)
    assert ingress(lab.a, "redirect:")["accepted"] == channels + 1


@pytest.mark.parametrize("flow", [(), ("--p2p",)], ids=["direct", "p2p"])
def test_whole_disks_are_copied(lab: Lab, flow: tuple[str, ...]) -> None:
    guest = lab.start_guest(disks=[Disk(16 * MIB), Disk(16 * MIB, "qcow2")])
    guest.prepare_disks(lab.b)
    for volume in guest.volumes:  # otherwise comparing them afterwards would be meaningless
        with pytest.raises(VerificationError):
            volume.compare(lab.b.plan)
    link(lab)
    migrate(lab, "--copy-storage-all", *flow)
    arrived(lab, guest, carried=1.3)
    assert ingress(lab.a, "redirect:")["accepted"] == 3


@pytest.mark.parametrize(
    "parallel", [(), ("--parallel", "--parallel-connections", "2")], ids=["plain", "parallel"]
)
def test_differences_from_a_shared_base_are_copied(lab: Lab, parallel: tuple[str, ...]) -> None:
    guest = lab.start_guest(
        disks=[Disk(16 * MIB, "qcow2", backing=True), Disk(8 * MIB, "qcow2", backing=True)]
    )
    guest.prepare_disks(lab.b)
    link(lab)
    migrate(lab, "--copy-storage-inc", *parallel)
    arrived(lab, guest)


@pytest.mark.parametrize(
    "more", [(), ("--parallel", "--parallel-connections", "4")], ids=["plain", "parallel"]
)
def test_qemus_own_tls_crosses(lab: Lab, more: tuple[str, ...]) -> None:
    """For hosts whose policy requires it: encrypted twice."""
    guest = lab.start_guest(disks=[Disk(4 * MIB)])
    guest.prepare_disks(lab.b)
    link(lab)
    migrate(lab, *TLS, "--copy-storage-all", *more)
    arrived(lab, guest)


def test_forced_tls_crosses_and_nothing_else_does(lab: Lab) -> None:
    for host in lab.hosts:
        host.libvirtd.configure(qemu={"migrate_tls_force": 1})
    guest = lab.start_guest()
    link(lab)
    refused = migrate(lab, "--p2p", check=False)
    assert "only with VIR_MIGRATE_TLS flag" in refused.stderr
    stayed(lab, guest)
    migrate(lab, "--p2p", *TLS)
    arrived(lab, guest)


def test_tls_to_another_name_is_refused_by_qemu(lab: Lab) -> None:
    """The alias is not in the destination's certificate: --tls-destination is for this."""
    guest = lab.start_guest()
    link(lab)
    assert migrate(lab, "--tls", check=False).returncode != 0
    log = lab.a.plan.outside("/var/log/libvirt/libvirtd.log").read_text(errors="replace")
    assert "Certificate does not match the hostname 127.0.1.2" in log
    stayed(lab, guest)

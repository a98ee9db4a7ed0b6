"""Refusals are immediate, with a reason, and before any guest memory is sent."""

from __future__ import annotations

import shutil

import pytest

from tests.support.faults import says
from tests.support.migrations import (
    ALIAS,
    LIBVIRT,
    both_ways,
    ingress,
    link,
    migrate,
    redirect,
    rpc,
    sent,
    stayed,
)
from tunnel.bench.lab.configs import LabConfig, LabIngress, LabPeer
from tunnel.bench.lab.daemons import CONFIG
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.lab import Lab
from tunnel.certs.authority import Authority
from tunnel.proof.local_daemon import MTUNNEL
from tunnel.units import MIB

pytestmark = [pytest.mark.root, pytest.mark.slow]


def refused(lab: Lab, guest: LabGuest, *options: str) -> str:
    """Return virsh's error output, after checking that neither guest nor memory was moved."""
    done = migrate(lab, *options, check=False)
    assert done.returncode != 0
    assert sent(lab.a) < MIB
    stayed(lab, guest)
    return done.stderr


def test_hosts_with_one_uuid(lab: Lab) -> None:
    lab.b.libvirtd.configure(libvirtd={"host_uuid": lab.a.plan.uuid})
    guest = lab.start_guest()
    link(lab)
    assert f"Attempt to migrate guest to the same host {lab.a.plan.uuid}" in refused(lab, guest)


def test_name_that_is_taken(lab: Lab) -> None:
    guest = lab.start_guest()
    lab.b.virsh("create", str(lab.a.plan.directory / "web1.xml"))
    link(lab)
    assert "domain 'web1' already exists" in migrate(lab, "--p2p", check=False).stderr
    assert sent(lab.a) < MIB
    assert lab.states("web1") == ("running", "running")  # the other one is a different guest
    guest.verify(lab.a)


def test_certificate_for_another_name(lab: Lab) -> None:
    """From the right authority, but A expects hostb. libvirt is called outside the tunnel."""
    issued = Authority.load(lab.directory / "pki").issue("hostx", dns=[], ips=[])
    for file in (issued.cert, issued.key):
        shutil.copy(file, lab.b.plan.outside("/etc/mtunnel"))
    guest = lab.start_guest()
    files = {"cert": "hostx.pem", "key": "hostx.key"}
    lab.b.start_daemon(LabConfig(lab.b.plan, [LabPeer.of(lab.a.plan)], host={"name": "hostx"}, tls=files))
    lab.a.start_daemon(LabConfig(lab.a.plan, [LabPeer.of(lab.b.plan)], [redirect("hostb")]))
    past = f"qemu+unix:///system?socket={lab.b.libvirt_socket}"
    through = ("--migrateuri", f"tcp://{ALIAS['hostb']}")
    assert lab.a.virsh("migrate", "--live", "web1", past, *through, check=False).returncode != 0
    reason = "the peer's certificate names hostx; expected hostb"
    says(lab.a, f"cannot connect: {reason}", f"connection refused: no link with hostb (last error: {reason})")
    stayed(lab, guest)


def test_user_that_is_not_allowed(lab: Lab) -> None:
    guest = lab.start_guest()
    way = redirect("hostb")
    link(lab, [LabIngress(way.peer, way.listen, users=["libvirt-qemu"]), rpc("hostb")])
    refused(lab, guest, "--p2p")
    says(lab.a, "connection refused: user root may not use this ingress (allowed: libvirt-qemu)")
    assert ingress(lab.a, "redirect:")["refused"] == 1


def test_port_that_is_not_allowed(lab: Lab) -> None:
    guest = lab.start_guest()
    link(lab, egress=["tcp:127.0.0.1:49200-49215"])
    refused(lab, guest)
    reason = "tcp:127.0.0.1:49152 is not in the egress list for hosta on hostb"
    says(lab.a, f"stream refused by the peer: {reason}")
    says(lab.b, f"stream refused: {reason}")


def starts_of_qemu(lab: Lab) -> int:
    """Return how often libvirt on B has started a QEMU for web1, including failures."""
    log = lab.b.plan.outside("/var/log/libvirt/qemu/web1.log")
    return log.read_text().count("starting up libvirt") if log.exists() else 0


@pytest.mark.parametrize(
    ("egress", "rule"),
    [
        ([LIBVIRT, "tcp:127.0.0.1:49200-49215"], "tcp:127.0.0.1:49152-49199"),
        (["tcp:127.0.0.1:49152-49215"], LIBVIRT),
    ],
    ids=["ports", "libvirt"],
)
def test_the_command_checks_targets_before_it_calls_libvirt(lab: Lab, egress: list[str], rule: str) -> None:
    """``mtunnel migrate`` checks what the peer allows before calling libvirt on either side."""
    guest = lab.start_guest()
    lab.start_daemons(both_ways(), egress=egress)
    before = starts_of_qemu(lab)
    argv = [*MTUNNEL, "migrate", "web1", "hostb", "--config", CONFIG]
    done = lab.a.run(argv, check=False)
    assert done.returncode == 3
    output = " ".join(done.stderr.split())
    assert f"hostb does not allow hosta to reach {rule}: " in output
    assert f'add "{rule}" to egress of [[peer]] name = "hosta" on hostb' in output
    # There was no connection through the tunnel, neither to libvirt nor to the ports.
    assert [each["accepted"] for each in lab.a.daemons[-1].status()["ingresses"]] == [0, 0]
    assert starts_of_qemu(lab) == before, "libvirt there prepared nothing"
    assert lab.a.job("web1").get("Job type") == "None"
    assert sent(lab.a) < MIB
    stayed(lab, guest)


def test_policy_that_demands_qemus_own_tls(lab: Lab) -> None:
    lab.b.libvirtd.configure(qemu={"migrate_tls_force": 1})
    guest = lab.start_guest()
    link(lab)
    assert "migration only with VIR_MIGRATE_TLS flag" in refused(lab, guest)

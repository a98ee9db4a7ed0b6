"""libvirt's own calls go through the one port only if both sides are configured for it."""

from __future__ import annotations

import pytest

from tests.support.migrations import LIBVIRT_AT, both_ways, ingress, link, nobody_else_was_let_in, redirect
from tunnel.bench.lab.configs import MIGRATION_PORTS
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.layout import QEMU_GROUP, QEMU_USER

pytestmark = [pytest.mark.root, pytest.mark.slow]


def list_guests(lab: Lab) -> tuple[int, str]:
    """List B's guests from A through the tunnel; return exit code and output."""
    done = lab.a.virsh("--connect", LIBVIRT_AT["hostb"], "list", "--name", check=False)
    return done.returncode, done.stdout + done.stderr


def test_libvirts_calls_cross(lab: Lab) -> None:
    lab.start_guest("web1", host=lab.b)
    link(lab)
    code, output = list_guests(lab)
    assert (code, output.split()) == (0, ["web1"])
    assert "hostb.lab" in lab.a.virsh("--connect", LIBVIRT_AT["hostb"], "hostname").stdout
    nobody_else_was_let_in(lab)


def test_source_without_the_ingress_has_no_route(lab: Lab) -> None:
    link(lab, [redirect("hostb")])
    code, output = list_guests(lab)
    assert code != 0
    assert "/run/mtunnel/hostb/libvirt-sock" in output


def test_destination_that_does_not_allow_it_refuses(lab: Lab) -> None:
    lab.start_daemons(both_ways(), egress=(MIGRATION_PORTS,))
    assert list_guests(lab)[0] != 0
    incidents = lab.a.daemons[-1].link("hostb")["incidents"]
    refusal = "unix:/run/libvirt/libvirt-sock is not in the egress list for hosta on hostb"
    assert [each["what"] for each in incidents if each["reason"] == refusal] == ["stream refused by the peer"]


def test_user_of_qemu_may_not_call(lab: Lab) -> None:
    """A guest escape on A must not lead to root on B."""
    link(lab)
    as_qemu = ["setpriv", "--reuid", QEMU_USER, "--regid", QEMU_GROUP, "--clear-groups"]
    done = lab.a.run([*as_qemu, "virsh", "--connect", LIBVIRT_AT["hostb"], "list"], check=False)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr  # by the socket's mode, which follows users = ["root"]
    assert ingress(lab.a, "unix:")["accepted"] == 0

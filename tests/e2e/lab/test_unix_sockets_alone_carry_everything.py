"""No TCP except the link: libvirt's calls, memory and disks use only unix sockets."""

from __future__ import annotations

import json

import pytest

from tests.support.migrations import arrived, ingress, link, migrate, migration, rpc, stayed
from tunnel.bench.lab.configs import LabIngress
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.layout import QEMU_USER
from tunnel.units import MIB

pytestmark = [pytest.mark.root, pytest.mark.slow]

# In a directory writable by QEMU: the destination's listens under the path that the source connects to.
HOME = "/var/lib/libvirt/qemu"
MEMORY = f"{HOME}/hostb/web1.sock"
DISKS = f"{HOME}/hostb/web1-disks.sock"
BACK = f"{HOME}/hosta/web1.sock"
PARALLEL = ("--parallel", "--parallel-connections", "4")


def linked(lab: Lab) -> LabGuest:
    guest = lab.start_guest(disks=[Disk(4 * MIB)])
    guest.prepare_disks(lab.b)
    ways = [LabIngress("hostb", f"unix:{path}") for path in (MEMORY, DISKS)]
    make_directories(lab, HOME)
    back = LabIngress("hosta", f"unix:{BACK}")
    link(lab, [rpc("hostb"), *ways, rpc("hosta"), back], egress=[f"unix:{HOME}/{{host}}/*"])
    return guest


def make_directories(lab: Lab, parent: str) -> None:
    """Allow QEMU's user to create sockets where each host is the destination."""
    for host in (lab.a, lab.b):
        host.run(["install", "-d", "-o", QEMU_USER, f"{parent}/{host.plan.name}"])


def by_sockets(*options: str) -> tuple[str, ...]:
    return (f"--migrateuri=unix://{MEMORY}", "--disks-uri", f"unix://{DISKS}", "--copy-storage-all", *options)


def owners(lab: Lab) -> list[str]:
    """Return the owners of the daemon's sockets on the source."""
    return [lab.a.plan.outside(path).owner() for path in (MEMORY, DISKS)]


def accepted(lab: Lab) -> list[int]:
    return [ingress(lab.a, f"unix:{path}")["accepted"] for path in (MEMORY, DISKS)]


@pytest.mark.parametrize("flow", [(), ("--p2p",)], ids=["direct", "p2p"])
def test_memory_and_disks_cross(lab: Lab, flow: tuple[str, ...]) -> None:
    guest = linked(lab)
    migrate(lab, *by_sockets(*flow))
    arrived(lab, guest)
    assert accepted(lab) == [1, 1]


def test_there_and_back_again(lab: Lab) -> None:
    """Each destination has its own directory: no listening QEMU removes an ingress's socket."""
    linked(lab)
    guest = lab.start_guest("web2")
    for _ in range(2):
        lab.a.virsh(*migration(f"--migrateuri=unix://{MEMORY}", "--persistent", guest=guest.name))
        assert lab.states(guest.name) == ("shut off", "running")
        lab.b.virsh(*migration(f"--migrateuri=unix://{BACK}", guest=guest.name, to="hosta"))
        assert lab.states(guest.name) == ("running", "shut off")
    assert guest.verify(lab.a).pages


def test_parallel_connections_cross(lab: Lab) -> None:
    """QEMU itself connects, as its own user; libvirt changes the owner of the ingress's socket for that."""
    guest = linked(lab)
    assert owners(lab) == ["root", "root"]
    migrate(lab, *by_sockets(*PARALLEL))
    assert owners(lab) == [QEMU_USER, QEMU_USER]
    arrived(lab, guest)
    assert accepted(lab) == [5, 1]


def test_sockets_whose_owner_libvirt_changed_work_again(lab: Lab) -> None:
    """And those left behind by a killed daemon are replaced, whatever their owner."""
    linked(lab)
    migrate(lab, *by_sockets(*PARALLEL))
    lab.b.virsh("destroy", "web1")
    for again in (False, True):
        if again:
            lab.a.daemons[-1].kill()
            lab.a.daemons[-1].restart()
            lab.a.daemons[-1].wait_linked("hostb")
        guest = lab.start_guest(f"web{2 + again}")
        lab.a.virsh(*migration(f"--migrateuri=unix://{MEMORY}", *PARALLEL, guest=guest.name))
        arrived(lab, guest)


def test_qemu_is_refused_where_it_is_not_a_user(lab: Lab) -> None:
    """In a directory of root: elsewhere QEMU's user could replace the ingress's socket."""
    guest = lab.start_guest()
    path = "/run/mtunnel/hostb/web1.sock"
    ways = [rpc("hostb"), LabIngress("hostb", f"unix:{path}", users=["root"])]
    link(lab, ways, egress=["unix:/run/mtunnel/{host}/*"])
    make_directories(lab, "/run/mtunnel")
    assert migrate(lab, f"--migrateuri=unix://{path}", *PARALLEL, check=False).returncode != 0
    assert f"user {QEMU_USER} may not use this ingress" in json.dumps(lab.a.daemons[-1].link("hostb"))
    stayed(lab, guest)

"""Guests of the lab are started whole, and proved to be whole, by a monitor that needs no libvirtd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.lab.disks import IMAGES, Disk
from tunnel.bench.lab.guests import Guest
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import LabError
from tunnel.errors import VerificationError
from tunnel.virt.guest import MIB, STATE_ADDRESS, Workload

SMALL = 16 * MIB


def test_each_disk_has_a_name_of_its_own(tmp: Path) -> None:
    guest = Guest("web1", tmp, disks=[Disk(MIB), Disk(MIB, "qcow2")])
    assert [volume.path for volume in guest.volumes] == [f"{IMAGES}/web1-0.raw", f"{IMAGES}/web1-1.qcow2"]
    assert [volume.path for volume in guest.domain.volumes] == [volume.path for volume in guest.volumes]


def test_a_guest_that_cannot_be_is_refused_before_anything_is_made(tmp: Path) -> None:
    with pytest.raises(LabError, match="a guest's name is"):
        Guest("../web1", tmp, disks=[Disk(MIB)])
    assert list(tmp.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("persistent", [True, False])
def test_a_guest_runs_and_is_whole(lab: Lab, persistent: bool) -> None:
    guest = lab.start_guest("db1", memory=SMALL, disks=[Disk(MIB), Disk(MIB, "qcow2")], persistent=persistent)
    assert lab.states("db1") == ("running", "absent")
    verified = guest.verify(lab.a)
    assert verified.pages > 3000  # of 4096, less what the firmware and the guest itself take
    assert lab.a.state("db1") == "running"
    listed = lab.a.virsh("list", "--persistent" if persistent else "--transient", "--name").stdout
    assert listed.split() == ["db1"]


@pytest.mark.root
def test_the_workload_is_what_was_asked_for(lab: Lab) -> None:
    busy = lab.start_guest(memory=SMALL, workload=Workload(4 * MIB, dirty_rate=None, seed=77))
    idle = lab.start_guest("idle", memory=SMALL, workload=Workload(dirty_rate=0), host=lab.b)
    state = busy.read_state(lab.a)
    assert (state.working_set, state.tag >> 48) == (1024, 77)
    assert state.dirtied > 0
    assert idle.read_state(lab.b).dirtied == 0
    assert lab.states("idle") == ("absent", "running")


@pytest.mark.root
def test_a_paused_guest_stays_paused(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL)
    lab.a.virsh("suspend", "web1")
    guest.verify(lab.a)
    assert lab.a.state("web1") == "paused"


@pytest.mark.root
def test_damaged_memory_is_noticed(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL)
    pid = lab.a.qemu_pid("web1")
    _flip(pid, SMALL)
    with pytest.raises(VerificationError, match=r"1 of the .* pages compared are wrong"):
        guest.verify(lab.a)


def _flip(pid: int, memory: int) -> None:
    """Change one bit of a guest's highest filled page, in the memory of its QEMU."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if end - start == memory:
            break
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as opened:
        where = start + 8 * MIB + 64
        opened.seek(where)
        old = opened.read(1)
        opened.seek(where)
        opened.write(bytes([old[0] ^ 1]))
    assert where > start + STATE_ADDRESS


@pytest.mark.root
def test_a_guest_that_is_elsewhere_is_not_verified(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL)
    with pytest.raises(LabError, match="no QEMU has web1 on hostb"):
        guest.verify(lab.b)


@pytest.mark.root
def test_a_removed_guest_leaves_no_file(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL, disks=[Disk(MIB, "qcow2", backing=True)])
    guest.prepare_disks(lab.b)
    guest.remove(lab.hosts)
    assert lab.states("web1") == ("absent", "absent")
    assert [path.name for path in lab.shared.iterdir()] == ["memory"]
    for host in lab.hosts:
        assert list(host.plan.outside(IMAGES).iterdir()) == []

"""Guests of the lab are started and verified, through a monitor that needs no libvirtd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.bench.lab.test_programs import HERE
from tunnel.bench.lab.disks import IMAGES, Disk
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError, until
from tunnel.errors import VerificationError
from tunnel.proof.pattern_guest import Workload, build_image
from tunnel.proof.qemu import Machine
from tunnel.units import MIB

SMALL = 16 * MIB


def test_each_disk_has_its_own_name(tmp: Path) -> None:
    guest = LabGuest("web1", tmp, disks=[Disk(MIB), Disk(MIB, "qcow2")])
    assert [volume.path for volume in guest.volumes] == [f"{IMAGES}/web1-0.raw", f"{IMAGES}/web1-1.qcow2"]
    assert [volume.path for volume in guest.domain.volumes] == [volume.path for volume in guest.volumes]


def test_an_invalid_guest_is_refused_before_files_are_created(tmp: Path) -> None:
    with pytest.raises(LabError, match="a guest name must be"):
        LabGuest("../web1", tmp, disks=[Disk(MIB)])
    assert list(tmp.iterdir()) == []


class Bare:
    """A host without libvirt, whose guest was started directly."""

    name = "hosta"

    def __init__(self, plan: LabHostPlan) -> None:
        self.plan = plan
        self.asked: list[tuple[str, ...]] = []

    class libvirtd:  # noqa: N801  an attribute of the host
        running = False

    def virsh(self, *arguments: str, check: bool = True) -> None:
        self.asked.append(arguments)


@pytest.fixture
def bare(plans: tuple[LabHostPlan, LabHostPlan]) -> Bare:
    """A host with the directories that a guest needs."""
    for place in (IMAGES, "/run/lab"):
        plans[0].outside(place).mkdir(parents=True)
    (plans[0].directory.parent / "memory").mkdir()
    return Bare(plans[0])


@contextmanager
def _by_hand(guest: LabGuest, host: Bare, tmp: Path) -> Iterator[None]:
    """Run QEMU with the arguments of the guest that libvirt would use."""
    machine = Machine(guest.domain.kernel, guest.domain.memory).arguments()
    monitor = f"unix:{host.plan.outside(guest.domain.monitor)},server=on,wait=off"
    program = Started(HERE, ["qemu-system-x86_64", *machine, "-qmp", monitor], tmp)
    try:
        yield
    finally:
        program.kill()


def test_a_guest_is_verified_through_its_second_monitor(bare: Bare, tmp: Path) -> None:
    guest = LabGuest("web1", tmp, memory=SMALL, disks=[Disk(MIB)])
    host = cast("LabHost", bare)
    with pytest.raises(LabError, match="no QEMU for web1 on hosta"):
        guest.read_state(host)
    guest.domain.kernel.write_bytes(build_image(Workload(MIB)))
    with _by_hand(guest, bare, tmp):
        until(bare.plan.outside(guest.domain.monitor).is_socket, "for its monitor")
        guest.start(host)
        assert [words[0] for words in bare.asked] == ["define", "start"]
        assert guest.verify(host).pages > 3000
        assert guest.read_state(host).filled > 3000
        bare.plan.outside(guest.volumes[0].path).write_bytes(bytes(MIB))
        with pytest.raises(VerificationError, match="on hosta has changed"):
            guest.verify(host)
    guest.remove([host])
    assert [words[0] for words in bare.asked[2:]] == ["destroy", "undefine"]
    assert not guest.domain.kernel.exists()


@pytest.mark.root
@pytest.mark.parametrize("persistent", [True, False])
def test_a_guest_runs_and_is_verified(lab: Lab, persistent: bool) -> None:
    guest = lab.start_guest("db1", memory=SMALL, disks=[Disk(MIB), Disk(MIB, "qcow2")], persistent=persistent)
    assert lab.states("db1") == ("running", "absent")
    verified = guest.verify(lab.a)
    assert verified.pages > 3000  # of 4096, less those of the firmware and the guest itself
    assert lab.a.state("db1") == "running"
    listed = lab.a.virsh("list", "--persistent" if persistent else "--transient", "--name").stdout
    assert listed.split() == ["db1"]


@pytest.mark.root
def test_the_guest_has_the_given_workload(lab: Lab) -> None:
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
def test_damaged_memory_is_detected(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL)
    pid = lab.a.qemu_pid("web1")
    _flip(pid, SMALL)
    with pytest.raises(VerificationError, match=r"1 of the .* pages compared are wrong"):
        guest.verify(lab.a)


def _flip(pid: int, memory: int) -> None:
    """Change one bit of a filled page of a guest, in the memory of its QEMU."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if end - start == memory:
            break
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as opened:
        where = start + 8 * MIB + 64  # above the working set, so that it is not overwritten
        opened.seek(where)
        old = opened.read(1)
        opened.seek(where)
        opened.write(bytes([old[0] ^ 1]))


@pytest.mark.root
def test_a_guest_that_is_elsewhere_is_not_verified(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL)
    with pytest.raises(LabError, match="no QEMU for web1 on hostb"):
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

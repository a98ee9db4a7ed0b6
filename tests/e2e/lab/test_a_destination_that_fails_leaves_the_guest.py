"""The destination's QEMU is killed, or lacks space or memory: the guest keeps running at the source."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.support.faults import (
    STILL_HERE,
    Phase,
    ends_on,
    hold,
    link,
    reasons,
    runner,
    says,
    slow_lab,
    small_lab,
    words,
)
from tests.support.migrations import migrate, stayed
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import until
from tunnel.units import MIB

__all__ = ["slow_lab", "small_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]


@STILL_HERE
def test_guest_stays_when_the_qemu_that_waits_is_killed(slow_lab: Lab, phase: Phase) -> None:
    guest, moving = hold(slow_lab, phase, "--p2p")
    slow_lab.b.kill_qemu("web1")
    output = words(moving)
    assert "qemu unexpectedly closed the monitor" in output or "job 'migration out'" in output
    ends_on(slow_lab, guest, slow_lab.a)
    says(slow_lab.a, "stream reset by the peer: on hostb: 127.0.0.1:49152: ")
    says(slow_lab.b, "stream reset: on hostb: 127.0.0.1:49152: ")


def test_post_copy_is_lost_with_its_destination_and_started_from_its_disks(slow_lab: Lab) -> None:
    """Part of the memory was only at the destination. The source never resumes the guest."""
    guest, moving = hold(slow_lab, Phase.POST_COPY, "--p2p")
    slow_lab.b.kill_qemu("web1")
    assert "domain is not running" in words(moving)
    until(lambda: reasons(slow_lab, guest) == ("paused (post-copy failed)", ""), "for libvirt to notice")
    assert runner(slow_lab, guest) is None
    slow_lab.a.virsh("destroy", "web1")
    slow_lab.a.virsh("start", "web1")
    assert runner(slow_lab, guest) is slow_lab.a


def test_guest_stays_when_its_disk_does_not_fit(small_lab: Lab) -> None:
    guest = small_lab.start_guest(disks=[Disk(16 * MIB)])
    small_lab.b.run(["truncate", "--size", str(16 * MIB), guest.volumes[0].path])
    link(small_lab)
    done = migrate(small_lab, "--copy-storage-all", check=False)
    assert "migration of disk vda failed: No space left on device" in done.stderr
    stayed(small_lab, guest)


@pytest.fixture
def poor_lab(lab: Lab) -> Iterator[Lab]:
    """A lab in which QEMU on B gets less memory than on A."""
    yield lab
    lab.b.libvirtd.restart()


def test_guest_stays_when_its_memory_is_not_available(poor_lab: Lab) -> None:
    guest = poor_lab.start_guest(memory=512 * MIB)
    link(poor_lab)
    enough = psutil.Process(poor_lab.a.qemu_pid("web1")).memory_info().vms
    # Too little for the guest, but enough for threads: each reserves 64 MiB for malloc, before or after it.
    psutil.Process(poor_lab.b.libvirtd.pid).rlimit(psutil.RLIMIT_AS, (enough - 256 * MIB,) * 2)
    done = migrate(poor_lab, "--p2p", check=False)
    assert "cannot set up guest memory" in done.stderr
    assert "Cannot allocate memory" in done.stderr
    stayed(poor_lab, guest)

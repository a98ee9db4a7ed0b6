"""``mtunnel migrate`` reports which part between two hosts failed, and the location of the guest."""

from __future__ import annotations

import pytest

from tests.support.faults import (
    WINDOW,
    Phase,
    ends_on,
    hold,
    interrupt,
    link,
    runner,
    slow_lab,
    small_lab,
)
from tests.support.migrations import stayed
from tunnel.bench.lab.daemons import CONFIG
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.proof.local_daemon import MTUNNEL
from tunnel.units import MIB

__all__ = ["slow_lab", "small_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]

COMMAND = (*MTUNNEL, "migrate", "web1", "hostb", "--config", CONFIG)
BY_HAND = ("--postcopy", "--timeout", "1h", "--timeout-action", "postcopy")
"""Post-copy is allowed, and started by the test."""

STAYED = "The guest is still running at hosta, the source, and nowhere else."
UNSEEN = "The guest is still running at hosta, the source. Could not check hostb, the destination."
"""The calls to libvirt on hostb use the link, too."""


def moving(lab: Lab, phase: Phase = Phase.PRE_COPY) -> tuple[LabGuest, Started]:
    return hold(lab, phase, window=WINDOW, client=[*COMMAND, *BY_HAND])


def says(program: Started, code: int, *words: str) -> None:
    """Assert its exit code, and that its output, which may be wrapped, contains all of ``words``."""
    assert program.wait(60) == code, program.output()
    output = " ".join(program.output().split())
    for each in words:
        assert each in output


def test_daemon_of_this_host(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab)
    slow_lab.a.daemons[-1].kill()
    says(program, 4, UNSEEN, "The tunnel reports: the daemon of this host does not answer: ")
    ends_on(slow_lab, guest, slow_lab.a)


def test_daemon_of_the_other_host(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab)
    slow_lab.b.daemons[-1].kill()
    gave_up = f"The tunnel reports: link down: no lane resumed within {WINDOW} s"
    says(program, 4, UNSEEN, "The tunnel reports: lane lost: connection with hostb (", gave_up)
    ends_on(slow_lab, guest, slow_lab.a)


def test_network_between_the_hosts(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab)
    interrupt(slow_lab)
    gave_up = f"The tunnel reports: link down: no lane resumed within {WINDOW} s"
    says(program, 4, UNSEEN, "The tunnel reports: lane lost: connection with hostb (", gave_up)
    ends_on(slow_lab, guest, slow_lab.a)


def test_qemu_of_the_other_host(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab)
    slow_lab.b.kill_qemu("web1")
    says(program, 1, STAYED, "The tunnel reports: stream reset by the peer: on hostb: 127.0.0.1:49152: ")
    ends_on(slow_lab, guest, slow_lab.a)


def test_room_for_a_disk_on_the_other_host(small_lab: Lab) -> None:
    guest = small_lab.start_guest(disks=[Disk(16 * MIB)])
    small_lab.b.run(["truncate", "--size", str(16 * MIB), guest.volumes[0].path])
    link(small_lab)
    program = small_lab.a.start([*COMMAND, "--copy-storage", "all"])
    says(program, 1, STAYED, "migration of disk vda failed: No space left on device")
    stayed(small_lab, guest)


def test_libvirtd_of_this_host(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab)
    slow_lab.a.libvirtd.kill()
    slow_lab.a.libvirtd.start()
    says(program, 1, "a connection to libvirt was lost: libvirtd or the network failed", STAYED)
    ends_on(slow_lab, guest, slow_lab.a)


def test_libvirtd_of_the_other_host(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab)
    slow_lab.b.libvirtd.kill()
    slow_lab.b.libvirtd.start()
    says(program, 1, "a connection to libvirt was lost: libvirtd or the network failed", STAYED)
    ends_on(slow_lab, guest, slow_lab.a)


def test_qemu_of_the_other_host_that_had_half_of_the_guest(slow_lab: Lab) -> None:
    guest, program = moving(slow_lab, Phase.POST_COPY)
    slow_lab.b.kill_qemu("web1")
    says(program, 1, "The guest is lost: it was in post-copy", "start it from its disks")
    assert runner(slow_lab, guest) is None

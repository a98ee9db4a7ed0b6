"""Post-copy goes through the tunnel; after an interruption it is resumed through a new link.

libvirt 11.2 and 11.3 crash on that (docs/libvirt.md): there it is done by hand.
"""

from __future__ import annotations

import pytest

from tests.support.migrations import (
    FRANTIC,
    SMALL,
    arrived,
    begin,
    crashes_when_resuming,
    finished,
    link,
    migrate,
    take_up,
    take_up_by_hand,
    wait_moving,
)
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import PATIENCE, until

pytestmark = [pytest.mark.root, pytest.mark.slow]

FLOWS = pytest.mark.parametrize("flow", [(), ("--p2p",)], ids=["direct", "p2p"])
SLOWLY = ("--postcopy", "--bandwidth", "16", "--postcopy-bandwidth", "2")
SWITCHED = ["paused (post-copy)", "running (post-copy)"]
ARRIVED = ["shut off (migrated)", "running (migrated)"]
BROKEN = ["paused (post-copy failed)", "running (post-copy failed)"]


@pytest.fixture
def guest(lab: Lab) -> LabGuest:
    """A guest that dirties memory, and a tunnel to a host whose QEMU may use userfaultfd."""
    lab.b.libvirtd.configure(qemu={"user": "root", "group": "root"})  # or vm.unprivileged_userfaultfd=1
    guest = lab.start_guest(memory=SMALL, workload=FRANTIC)
    link(lab)
    return guest


def states(lab: Lab) -> list[str]:
    return [host.virsh("domstate", "web1", "--reason").stdout.strip() for host in lab.hosts]


def events(lab: Lab) -> Started:
    """Start to record the events of the guest from A's libvirt."""
    recorded = lab.a.start(["virsh", "event", "web1", "--event", "lifecycle", "--loop"])
    lab.a.virsh("suspend", "web1")
    lab.a.virsh("resume", "web1")
    until(lambda: "Resumed" in recorded.output(), "for events to be reported")
    return recorded


def switch(lab: Lab, *options: str) -> Started:
    moving = begin(lab, *options)
    wait_moving(lab.a)
    lab.a.virsh("migrate-postcopy", "web1")
    return moving


@FLOWS
def test_post_copy_after_one_pass_crosses(lab: Lab, guest: LabGuest, flow: tuple[str, ...]) -> None:
    recorded = events(lab)
    migrate(lab, "--postcopy", "--postcopy-after-precopy", "--bandwidth", "16", *flow)
    arrived(lab, guest)
    assert "Suspended Post-copy" in recorded.output()


@FLOWS
def test_post_copy_on_demand_crosses(lab: Lab, guest: LabGuest, flow: tuple[str, ...]) -> None:
    recorded = events(lab)
    finished(switch(lab, "--postcopy", "--bandwidth", "16", *flow))
    arrived(lab, guest)
    assert "Suspended Post-copy" in recorded.output()


def break_off(lab: Lab, *flow: str) -> None:
    """Switch the guest to B, then break the tunnel and bring it up as a new session."""
    moving = switch(lab, *SLOWLY, *flow)
    until(lambda: states(lab) == SWITCHED, "for the guest to run on B")
    lab.a.daemons[-1].kill()
    assert moving.wait(PATIENCE) != 0
    lab.a.daemons[-1].restart()  # a new session: the other daemon resets what belonged to the old one
    lab.a.daemons[-1].wait_linked("hostb")
    until(lambda: states(lab) == BROKEN, "for both sides to notice")


def crash_libvirtd(lab: Lab, *flow: str) -> None:
    """Resume post-copy on a libvirt that crashes: it exits, and the guest is unchanged on both sides."""
    done = migrate(lab, "--postcopy", "--postcopy-resume", *flow, check=False)
    assert done.returncode != 0
    until(lambda: not lab.b.libvirtd.running, "for libvirtd of hostb to crash")
    lab.b.libvirtd.start()
    assert states(lab) == BROKEN
    lab.b.libvirtd.stop()


@FLOWS
def test_post_copy_recovers_after_a_cut(lab: Lab, guest: LabGuest, flow: tuple[str, ...]) -> None:
    break_off(lab, *flow)
    if crashes_when_resuming(lab.b):
        crash_libvirtd(lab, *flow)
        take_up_by_hand(lab)
    else:
        take_up(lab, "--postcopy-bandwidth", "1000", *flow)
    until(lambda: states(lab) == ARRIVED, "for the guest to have arrived")
    arrived(lab, guest, carried=0.1)  # the rest


@FLOWS
def test_post_copy_recovers_by_hand_while_the_destinations_libvirtd_is_stopped(
    lab: Lab, guest: LabGuest, flow: tuple[str, ...]
) -> None:
    break_off(lab, *flow)
    lab.b.libvirtd.stop()
    take_up_by_hand(lab)
    until(lambda: states(lab) == ARRIVED, "for the guest to have arrived")
    arrived(lab, guest, carried=0.1)

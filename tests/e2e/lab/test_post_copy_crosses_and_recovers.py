"""Post-copy goes through the tunnel; one that was cut off is taken up again through a new link."""

from __future__ import annotations

import pytest

from tests.support.migrations import (
    FRANTIC,
    SMALL,
    arrived,
    begin,
    finished,
    link,
    migrate,
    take_up,
    wait_moving,
)
from tunnel.bench.lab.guests import Guest
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
def guest(lab: Lab) -> Guest:
    """A guest that writes, and a tunnel to a host whose QEMU may fetch pages when it misses them."""
    lab.b.libvirtd.configure(qemu={"user": "root", "group": "root"})  # or vm.unprivileged_userfaultfd=1
    guest = lab.start_guest(memory=SMALL, workload=FRANTIC)
    link(lab)
    return guest


def states(lab: Lab) -> list[str]:
    return [host.virsh("domstate", "web1", "--reason").stdout.strip() for host in lab.hosts]


def events(lab: Lab) -> Started:
    """What A's libvirt tells of the guest from now on."""
    told = lab.a.start(["virsh", "event", "web1", "--event", "lifecycle", "--loop"])
    lab.a.virsh("suspend", "web1")
    lab.a.virsh("resume", "web1")
    until("events to be told", lambda: "Resumed" in told.output())
    return told


def switch(lab: Lab, *options: str) -> Started:
    moving = begin(lab, *options)
    wait_moving(lab.a)
    lab.a.virsh("migrate-postcopy", "web1")
    return moving


@FLOWS
def test_post_copy_after_one_pass_crosses(lab: Lab, guest: Guest, flow: tuple[str, ...]) -> None:
    told = events(lab)
    migrate(lab, "--postcopy", "--postcopy-after-precopy", "--bandwidth", "16", *flow)
    arrived(lab, guest)
    assert "Suspended Post-copy" in told.output()


@FLOWS
def test_post_copy_on_demand_crosses(lab: Lab, guest: Guest, flow: tuple[str, ...]) -> None:
    told = events(lab)
    finished(switch(lab, "--postcopy", "--bandwidth", "16", *flow))
    arrived(lab, guest)
    assert "Suspended Post-copy" in told.output()


@FLOWS
def test_post_copy_recovers_after_a_cut(lab: Lab, guest: Guest, flow: tuple[str, ...]) -> None:
    moving = switch(lab, *SLOWLY, *flow)
    until("the guest to run on B", lambda: states(lab) == SWITCHED)
    lab.a.daemons[-1].kill()
    assert moving.wait(PATIENCE) != 0
    lab.a.daemons[-1].restart()  # a new session: the other daemon resets what belonged to the old one
    lab.a.daemons[-1].wait_linked("hostb")
    until("both sides to know", lambda: states(lab) == BROKEN)
    take_up(lab, "--postcopy-bandwidth", "1000", *flow)
    until("the guest to have arrived", lambda: states(lab) == ARRIVED)
    arrived(lab, guest, carried=0.1)  # the rest

"""A libvirtd is killed during a migration and restarted: the guest runs intact on one side."""

from __future__ import annotations

import pytest

from tests.support.faults import (
    FLOWS,
    SIDES,
    STILL_HERE,
    Phase,
    ends_on,
    hasten,
    hold,
    runner,
    says,
    slow_lab,
    words,
)
from tunnel.bench.lab.lab import Lab

__all__ = ["slow_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]

NO_LIBVIRTD = "Disconnected from qemu:///system due to end of file"
NO_OTHER = {"direct": "job 'migration out'", "p2p": "client socket is closed"}
"""virsh's error text when the other side's libvirtd is killed; the daemons report more."""


@SIDES
@STILL_HERE
@FLOWS
def test_guest_stays_before_the_switch(slow_lab: Lab, flow: tuple[str, ...], phase: Phase, side: int) -> None:
    guest, moving = hold(slow_lab, phase, *flow)
    slow_lab.hosts[side].libvirtd.kill()
    assert runner(slow_lab, guest) is not slow_lab.b
    slow_lab.hosts[side].libvirtd.start()
    assert (NO_OTHER["p2p" if flow else "direct"] if side else NO_LIBVIRTD) in words(moving)
    ends_on(slow_lab, guest, slow_lab.a)
    says(slow_lab.a, "stream reset by the peer: on hostb: 127.0.0.1:49152: ")
    says(slow_lab.b, "stream reset: on hostb: 127.0.0.1:49152: ")


@SIDES
@FLOWS
def test_guest_arrives_after_the_switch(slow_lab: Lab, flow: tuple[str, ...], side: int) -> None:
    """QEMU completes without libvirtd; the restarted one detects that."""
    guest, moving = hold(slow_lab, Phase.POST_COPY, *flow)
    slow_lab.hosts[side].libvirtd.kill()
    assert runner(slow_lab, guest) is slow_lab.b
    slow_lab.hosts[side].libvirtd.start()
    hasten(slow_lab)
    ends_on(slow_lab, guest, slow_lab.b)
    moving.wait()
    if not side:  # in a direct migration virsh may still complete it: then this is a warning
        assert NO_LIBVIRTD in moving.output()

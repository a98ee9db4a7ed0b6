"""The tunnel itself fails during a migration: the guest stays, or its post-copy is resumed."""

from __future__ import annotations

import pytest

from tests.support.faults import (
    PHASES,
    SIDES,
    STILL_HERE,
    WINDOW,
    Phase,
    ends_on,
    hasten,
    hold,
    interrupt,
    mend,
    recovers,
    says,
    slow_lab,
    waits,
    words,
)
from tests.support.migrations import nobody_else_was_let_in
from tunnel.bench.lab.lab import Lab

__all__ = ["slow_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]

NO_WAY = "client socket is closed"
"""libvirt's only error text when its connection to the other libvirt is lost."""

GAVE_UP = f"link down: no lane resumed within {WINDOW} s"


def lost(peer: str) -> str:
    return f"lane lost: connection with {peer} ("


@SIDES
@STILL_HERE
def test_guest_stays_when_a_daemon_is_killed(slow_lab: Lab, phase: Phase, side: int) -> None:
    guest, moving = hold(slow_lab, phase, "--p2p", window=WINDOW)
    slow_lab.hosts[side].daemons[-1].kill()
    assert NO_WAY in words(moving)
    ends_on(slow_lab, guest, slow_lab.a)
    says(slow_lab.hosts[1 - side], lost(slow_lab.hosts[side].name), GAVE_UP)


@SIDES
def test_guest_stays_in_a_direct_migration_when_a_daemon_is_killed(slow_lab: Lab, side: int) -> None:
    guest, moving = hold(slow_lab, Phase.SWITCH_OVER, window=WINDOW)
    slow_lab.hosts[side].daemons[-1].kill()
    assert "job 'migration out'" in words(moving)
    ends_on(slow_lab, guest, slow_lab.a)
    says(slow_lab.hosts[1 - side], lost(slow_lab.hosts[side].name), GAVE_UP)


@SIDES
def test_post_copy_waits_for_a_killed_daemon(slow_lab: Lab, side: int) -> None:
    guest, moving = hold(slow_lab, Phase.POST_COPY, "--p2p", window=WINDOW)
    daemon = slow_lab.hosts[side].daemons[-1]
    daemon.kill()
    assert NO_WAY in words(moving)
    waits(slow_lab, guest)
    says(slow_lab.hosts[1 - side], lost(slow_lab.hosts[side].name), GAVE_UP)
    daemon.restart()
    recovers(slow_lab, guest, "--p2p")


@STILL_HERE
def test_guest_stays_when_the_link_stays_cut(slow_lab: Lab, phase: Phase) -> None:
    guest, moving = hold(slow_lab, phase, "--p2p", window=WINDOW)
    interrupt(slow_lab)
    assert NO_WAY in words(moving)
    ends_on(slow_lab, guest, slow_lab.a)
    for host in slow_lab.hosts:
        says(host, lost(host.peer.name), GAVE_UP)


def test_post_copy_waits_for_a_link_that_stayed_cut(slow_lab: Lab) -> None:
    guest, moving = hold(slow_lab, Phase.POST_COPY, "--p2p", window=WINDOW)
    interrupt(slow_lab)
    assert NO_WAY in words(moving)
    waits(slow_lab, guest)
    for host in slow_lab.hosts:
        says(host, lost(host.peer.name), GAVE_UP)
    mend(slow_lab)
    recovers(slow_lab, guest, "--p2p")


@PHASES
def test_link_that_comes_back_in_time_resumes(slow_lab: Lab, phase: Phase) -> None:
    guest, moving = hold(slow_lab, phase, "--p2p")
    interrupt(slow_lab)
    for host in slow_lab.hosts:
        says(host, lost(host.peer.name))
    assert moving.running
    mend(slow_lab)
    hasten(slow_lab)
    assert moving.wait() == 0, moving.output()
    for host in slow_lab.hosts:
        assert host.daemons[-1].link(host.peer.name)["resumes"] == 1
    ends_on(slow_lab, guest, slow_lab.b)
    nobody_else_was_let_in(slow_lab)


def test_silence_is_noticed_and_the_guest_stays(slow_lab: Lab) -> None:
    """A cut network sends no reset: both sides must time out."""
    guest, moving = hold(slow_lab, Phase.PRE_COPY, "--p2p", window=WINDOW)
    slow_lab.b.firewall.cut()
    assert NO_WAY in words(moving)
    ends_on(slow_lab, guest, slow_lab.a)
    for host in slow_lab.hosts:
        says(host, lost(host.peer.name), GAVE_UP)

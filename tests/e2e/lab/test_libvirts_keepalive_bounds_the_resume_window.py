"""A link that is silent for longer than libvirt's keepalive resumes after libvirt has aborted the migration.

Each libvirt has its own keepalive settings, see ``advice``. The impatient ones here time out after 3 seconds.
"""

from __future__ import annotations

import time

import pytest

from tests.support.faults import Phase, ends_on, hasten, hold, slow_lab, told, words
from tests.support.migrations import finished, migration
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab

__all__ = ["slow_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]

IMPATIENT = {"keepalive_interval": 1, "keepalive_count": 2}
PATIENT = {"keepalive_interval": 1, "keepalive_count": 40}
SILENCE = 8.0
"""Seconds: more than the impatient timeout, and less than that of the others and the link."""


def silence(lab: Lab) -> None:
    for host in lab.hosts:
        host.firewall.cut()


def mend(lab: Lab) -> None:
    for host in lab.hosts:
        host.firewall.close(but=(PORT,))


def configure(lab: Lab, *, caller: dict[str, int], called: dict[str, int]) -> None:
    """Set the keepalive of A's libvirt, peer to peer, and of B's libvirtd for its clients."""
    root: dict[str, str | int] = {"user": "root", "group": "root"}
    lab.a.libvirtd.configure(qemu=dict(caller))
    lab.b.libvirtd.configure(qemu=root, libvirtd=dict(called))


def lived(lab: Lab) -> None:
    """Verify that both hosts still have the same session."""
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
        assert "link down" not in told(host)


def virsh(keepalive: dict[str, int]) -> list[str]:
    interval, count = map(str, keepalive.values())
    return ["virsh", "-k", interval, "-K", count, *migration("--postcopy")]


@pytest.mark.parametrize("flow", ["p2p", "direct"])
def test_migration_continues_with_a_longer_keepalive(slow_lab: Lab, flow: str) -> None:
    configure(slow_lab, caller=PATIENT, called=PATIENT)
    how = ((), virsh(PATIENT)) if flow == "direct" else (("--p2p",), ())
    guest, moving = hold(slow_lab, Phase.PRE_COPY, *how[0], client=how[1])
    silence(slow_lab)
    time.sleep(SILENCE)
    mend(slow_lab)
    hasten(slow_lab)
    finished(moving)
    lived(slow_lab)
    ends_on(slow_lab, guest, slow_lab.b)


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        pytest.param(IMPATIENT, PATIENT, id="qemu.conf of the source"),
        pytest.param(PATIENT, IMPATIENT, id="libvirtd.conf of the destination"),
    ],
)
def test_migration_is_aborted_with_a_shorter_keepalive(
    slow_lab: Lab, caller: dict[str, int], called: dict[str, int]
) -> None:
    configure(slow_lab, caller=caller, called=called)
    guest, moving = hold(slow_lab, Phase.PRE_COPY, "--p2p")
    silence(slow_lab)
    if called is IMPATIENT:
        time.sleep(SILENCE)
        mend(slow_lab)  # the source is notified once the link is back
        assert words(moving)
    else:
        assert words(moving)
        mend(slow_lab)
    lived(slow_lab)
    hasten(slow_lab)
    ends_on(slow_lab, guest, slow_lab.a)


def test_in_post_copy_the_guest_arrives_nevertheless(slow_lab: Lab) -> None:
    configure(slow_lab, caller=IMPATIENT, called=IMPATIENT)
    guest, moving = hold(slow_lab, Phase.POST_COPY, "--p2p")
    silence(slow_lab)
    assert words(moving)
    mend(slow_lab)
    lived(slow_lab)
    hasten(slow_lab)
    ends_on(slow_lab, guest, slow_lab.b)

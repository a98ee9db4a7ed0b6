"""Lanes are reset repeatedly during a migration and libvirt calls, without effect on libvirt."""

from __future__ import annotations

import re
import sys

import pytest

from tests.support.faults import FLOWS, RESTLESS, hasten, slow_lab
from tests.support.migrations import LIBVIRT, LIBVIRT_AT, begin, finished, redirect, rpc, wait_moving
from tunnel.bench.lab.configs import CONTROL, MIGRATION_PORTS
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import until
from tunnel.bench.lab.wires import INTERFACES

__all__ = ["slow_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]

CUTS = 40
EVERY = 512 * 1024  # bytes
CALLS = "while sleep 0.05; do echo list; done | virsh --quiet --connect '{uri}'"
"""A loop of calls over one connection, until it is killed."""


COMPLAINT = re.compile(r" error : (virNet|virKeepAlive|remote|qemuMigration|qemuMonitor|qemuProcess).*")
"""Errors of connections and guests. libvirt also logs missing host features, such as /dev/kvm."""

ORDERLY = "End of file while reading data"
"""libvirtd's log line when the other one closes the connection first, at the end of a migration."""


def complaints(host: LabHost) -> list[str]:
    """Return the errors in the log of a host's libvirtd."""
    log = host.plan.outside("/var/log/libvirt/libvirtd.log").read_text(errors="replace")
    return [line for line in log.splitlines() if COMPLAINT.search(line)]


@FLOWS
@pytest.mark.parametrize("lanes", [1, 2])
def test_guest_arrives_and_calls_continue(slow_lab: Lab, flow: tuple[str, ...], lanes: int) -> None:
    lab = slow_lab
    guest = lab.start_guest(workload=RESTLESS)
    ingresses = [redirect("hostb"), rpc("hostb")]  # so that hosta dials
    lab.start_daemons(ingresses, egress=(MIGRATION_PORTS, LIBVIRT), transport={"lanes": lanes})
    before = [*map(complaints, lab.hosts)]
    calls = lab.a.start(["sh", "-c", CALLS.format(uri=LIBVIRT_AT["hostb"])])
    moving = begin(lab, *flow)
    wait_moving(lab.a)
    options = ["--interface", INTERFACES[0], "--every", str(EVERY), "--count", str(CUTS)]
    resets = lab.a.start([sys.executable, "-m", "tunnel.bench.measure.resets", str(PORT), CONTROL, *options])
    until(lambda: not resets.running, "for the last cut", 60)
    assert moving.running, moving.output()
    assert [*map(complaints, lab.hosts)] == before
    hasten(lab)
    finished(moving)
    assert resets.output().splitlines()[-1] == str(CUTS)
    for host, old in zip(lab.hosts, before, strict=True):
        assert not [line for line in complaints(host)[len(old) :] if ORDERLY not in line]
    assert calls.running, calls.output()
    assert "error" not in calls.output()
    for host in lab.hosts:
        link = host.daemons[-1].link(host.peer.name)
        assert link["resumes"] == CUTS
        assert "link down" not in {each["what"] for each in link["incidents"]}
    guest.verify(lab.b)

"""Auto-converge, compression, bandwidth, abort and timeout work the same through the tunnel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.migrations import (
    FRANTIC,
    SMALL,
    arrived,
    begin,
    finished,
    link,
    migrate,
    sent,
    stayed,
    wait_moving,
)
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import PATIENCE, until
from tunnel.proof.qemu import PROGRAM
from tunnel.units import MIB

pytestmark = [pytest.mark.root, pytest.mark.slow]

FLOWS = pytest.mark.parametrize("flow", [(), ("--p2p",)], ids=["direct", "p2p"])
LIMIT = 16  # MiB/s, a quarter of what a frantic guest dirties
SLOW = 4  # MiB/s
DOWNTIME = 0.3
"""QEMU's default downtime limit in seconds."""


def number(job: dict[str, str], key: str) -> float:
    """Return a value of ``virsh domjobinfo`` without its unit."""
    return float(job[key].split()[0])


def progress(lab: Lab) -> dict[str, Any]:
    """Return QEMU's ``query-migrate`` reply."""
    reply = lab.a.virsh("qemu-monitor-command", "web1", '{"execute": "query-migrate"}', check=False).stdout
    return dict(json.loads(reply)["return"]) if reply else {}


def throttle(lab: Lab) -> int:
    """Return by how much QEMU throttles the guest, in percent."""
    return int(progress(lab).get("cpu-throttle-percentage", 0))


def suspended(lab: Lab) -> bool:
    """Return whether the guest is paused with more remaining than QEMU's downtime limit allows."""
    left = progress(lab).get("ram", {}).get("remaining", 0)
    return lab.a.state("web1") == "paused" and left > 2 * DOWNTIME * SLOW * MIB


def test_auto_converge_slows_the_guest_down(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL, workload=FRANTIC)
    link(lab)
    options = ("--auto-converge", "--auto-converge-initial", "40", "--bandwidth", str(LIMIT))
    moving = begin(lab, *options)
    until(lambda: throttle(lab) >= 40, "for the guest to be slowed down")
    lab.a.virsh("migrate-setspeed", "web1", "1000")
    finished(moving)
    arrived(lab, guest)


def test_repeated_pages_are_sent_as_their_difference(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL, workload=FRANTIC)
    link(lab)
    migrate(lab, "--compressed", "--comp-methods", "xbzrle", "--bandwidth", str(LIMIT))
    arrived(lab, guest)
    assert number(lab.a.job("web1", completed=True), "Compressed pages") > 0


def qemu_version(lab: Lab) -> tuple[int, int]:
    """Return the version from ``QEMU emulator version 10.0.8 (Debian …)``."""
    major, minor, *_ = lab.a.run([PROGRAM, "--version"]).stdout.split()[3].split(".")
    return int(major), int(minor)


def test_compressed_pages_are_smaller(lab: Lab) -> None:
    guest = lab.start_guest()
    link(lab)
    done = migrate(lab, "--compressed", "--comp-methods", "mt", check=False)
    if qemu_version(lab) >= (9, 1):  # multi-thread compression was removed
        assert "compress" in done.stderr
        stayed(lab, guest)
        return
    assert done.returncode == 0, done.stderr
    arrived(lab, guest, carried=0.05)
    assert sent(lab.a) < guest.domain.memory / 2


def test_bandwidth_limit_holds(lab: Lab) -> None:
    guest = lab.start_guest(memory=SMALL)
    link(lab)
    migrate(lab, "--bandwidth", str(LIMIT))
    arrived(lab, guest)
    job = lab.a.job("web1", completed=True)
    assert number(job, "Time elapsed") > 0.8 * 1000 * guest.domain.memory / MIB / LIMIT


@FLOWS
def test_abort_leaves_the_guest_at_the_source(lab: Lab, flow: tuple[str, ...]) -> None:
    guest = lab.start_guest(memory=SMALL, workload=FRANTIC)
    link(lab)
    moving = begin(lab, "--bandwidth", "8", *flow)
    wait_moving(lab.a)
    lab.a.virsh("domjobabort", "web1")
    assert moving.wait(PATIENCE) != 0
    assert "canceled by client" in moving.output()
    stayed(lab, guest)
    migrate(lab, *flow)
    arrived(lab, guest)


@FLOWS
def test_timeout_suspends_the_guest_until_it_has_arrived(lab: Lab, flow: tuple[str, ...]) -> None:
    guest = lab.start_guest(memory=SMALL, workload=FRANTIC)
    link(lab)
    moving = begin(lab, "--bandwidth", str(SLOW), "--timeout", "2", "--timeout-suspend", *flow)
    until(lambda: suspended(lab), "for the guest to be suspended")
    finished(moving)
    arrived(lab, guest)

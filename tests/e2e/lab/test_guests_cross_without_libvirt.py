"""``mtunnel migrate --qmp`` migrates guests without libvirt, with only port 16515 open."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.bare_guest import MONITOR, BareGuest
from tests.support.migrations import (
    FRANTIC,
    PATIENCE,
    SMALL,
    ingress,
    no_lane_was_lost,
    nobody_else_was_let_in,
    redirect,
    sent,
)
from tunnel.bench.lab.configs import MIGRATION_PORTS, LabIngress
from tunnel.bench.lab.daemons import CONFIG
from tunnel.bench.lab.lab import Lab
from tunnel.proof.local_daemon import MTUNNEL
from tunnel.proof.pattern_guest import PAGE

pytestmark = [pytest.mark.root, pytest.mark.slow]

RAM = pytest.mark.parametrize(
    "ram", [LabIngress("hostb", "tcp:127.0.1.2:49152"), redirect("hostb")], ids=["tcp", "redirect"]
)
FAR_MONITOR = LabIngress("hostb", "unix:/run/mtunnel/hostb/command.qmp", f"unix:{MONITOR}", users=["root"])
TO_FAR_MONITOR = ("--dest-qmp", "/run/mtunnel/hostb/command.qmp")
AT_16_MIB = ("--bandwidth", "16MiB/s")  # slower than the guest writes, so that post-copy has work left


@pytest.fixture
def guest(lab: Lab) -> BareGuest:
    """A guest on A that dirties memory; B has no libvirt."""
    lab.b.libvirtd.stop()
    guest = BareGuest("web1", lab.shared, memory=SMALL, workload=FRANTIC)
    lab.guests[guest.name] = guest
    guest.start(lab.a)
    return guest


def link(lab: Lab, ram: LabIngress) -> None:
    """Start both daemons, with routes for memory and for the monitor of the QEMU on B."""
    lab.start_daemons([ram, FAR_MONITOR], egress=(MIGRATION_PORTS, FAR_MONITOR.target or ""))


def migrate(lab: Lab, *options: str, code: int = 0) -> dict[str, Any]:
    """Run the command on A, which must exit with ``code``; return its last event."""
    argv = [*MTUNNEL, "migrate", "web1", "hostb", "--config", CONFIG, "--json", "--qmp", MONITOR, *options]
    done = lab.a.run(argv, timeout=PATIENCE, check=False)
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def arrived(lab: Lab, guest: BareGuest) -> None:
    """Verify that the guest is intact on B and gone from A, and that all of it went through the one port."""
    assert guest.status(lab.a) == "postmigrate"
    assert guest.status(lab.b) == "running"
    filled = guest.verify(lab.b).pages * PAGE
    no_lane_was_lost(lab)
    assert sent(lab.a) >= filled
    nobody_else_was_let_in(lab)
    assert not lab.b.libvirtd.running


@RAM
def test_plain_guest_crosses(lab: Lab, guest: BareGuest, ram: LabIngress) -> None:
    """To a QEMU that already listens, without its monitor."""
    guest.wait_at(lab.b, "tcp:127.0.0.1:49152")
    link(lab, ram)
    assert migrate(lab, code=5)["result"] == "unverified"
    arrived(lab, guest)
    assert ingress(lab.a, ram.listen)["accepted"] == 1


@RAM
@pytest.mark.parametrize(
    ("options", "streams"),
    [
        (("--parallel", "4"), 5),
        (("--postcopy", *AT_16_MIB), 1),
        (("--postcopy", "--postcopy-preempt", *AT_16_MIB), 2),
        (("--no-return-path",), 1),
    ],
    ids=["multifd", "post-copy", "post-copy-preempt", "no-return-path"],
)
def test_guest_crosses_with(
    lab: Lab, guest: BareGuest, ram: LabIngress, options: tuple[str, ...], streams: int
) -> None:
    """To a QEMU with ``-incoming defer``, with its monitor through the same port."""
    guest.wait_at(lab.b, "defer")
    link(lab, ram)
    end = migrate(lab, *options, *TO_FAR_MONITOR)
    assert (end["result"], end["runs_at"]) == ("done", "destination")
    assert end["summary"]["postcopied"] == ("--postcopy" in options)
    arrived(lab, guest)
    assert ingress(lab.a, ram.listen)["accepted"] == streams

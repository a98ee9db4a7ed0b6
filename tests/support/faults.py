"""Guests that are held in one phase of their migration, to inject a fault in that phase.

For this the network between the hosts is slow: pre-copy of a guest that writes faster than the network never
converges, and the switch-over of a stopped guest takes seconds. The run state of a guest is queried from both
QEMUs, on separate monitors: these also work when a libvirtd is down.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import partial

import pytest

from tests.support.migrations import LIBVIRT, begin, both_ways, take_up, wait_moving
from tunnel.bench.lab.configs import MIGRATION_PORTS
from tunnel.bench.lab.disks import IMAGES
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError, until
from tunnel.proof.pattern_guest import Workload
from tunnel.units import MIB

SETTLED = 60.0
"""Seconds after a fault within which a guest must run on exactly one side."""

WINDOW = 1
"""Resume window in seconds, in tests where it expires."""

RESTLESS = Workload(working_set=16 * MIB, dirty_rate=16 * MIB)
"""A guest that writes at twice the rate of the slow network."""

_RATE = "64mbit"
_RUNNING, _SILENT, _NO_QEMU = "running", "silent", "no QEMU"


class Phase(StrEnum):
    """The phase of a migration."""

    PRE_COPY = "pre-copy"
    SWITCH_OVER = "switch-over"
    POST_COPY = "post-copy"


PHASES = pytest.mark.parametrize("phase", Phase)
STILL_HERE = pytest.mark.parametrize("phase", [Phase.PRE_COPY, Phase.SWITCH_OVER])
SIDES = pytest.mark.parametrize("side", [0, 1], ids=["source", "destination"])
FLOWS = pytest.mark.parametrize("flow", [(), ("--p2p",)], ids=["direct", "p2p"])


@pytest.fixture
def slow_lab(lab: Lab) -> Iterator[Lab]:
    """The lab, with a slow network until ``hasten``; QEMU on B may use userfaultfd."""
    lab.b.libvirtd.configure(qemu={"user": "root", "group": "root"})
    for host in lab.hosts:
        shape = ("tbf", "rate", _RATE, "burst", "64kb", "latency", "100ms")
        host.run(["tc", "qdisc", "add", "dev", "eth0", "root", *shape])
    yield lab
    hasten(lab)
    for host in lab.hosts:
        for daemon in host.daemons:
            daemon.kill()  # a regular stop would wait for streams whose clients are gone


@pytest.fixture
def small_lab(lab: Lab) -> Iterator[Lab]:
    """A lab in which B has only 4 MiB of space for disks."""
    lab.b.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0711", "tmpfs", IMAGES])
    yield lab
    lab.b.run(["umount", "--lazy", IMAGES])


def hasten(lab: Lab) -> None:
    """Remove the rate limit of the network."""
    for host in lab.hosts:
        host.run(["tc", "qdisc", "del", "dev", "eth0", "root"], check=False)


def link(lab: Lab, window: float = 30) -> None:
    """Start both daemons as in README, with a resume window of ``window`` seconds."""
    egress = (MIGRATION_PORTS, LIBVIRT)
    lab.start_daemons(both_ways(), egress=egress, transport={"resume_window": f"{window}s"})


def hold(
    lab: Lab, phase: Phase, *flow: str, window: float = 30, client: Sequence[str] = ()
) -> tuple[LabGuest, Started]:
    """Start web1, link the hosts, start to migrate it, and return when it is in ``phase``.

    ``client``: the command that migrates it; default: virsh.
    """
    guest = lab.start_guest(workload=RESTLESS)
    link(lab, window)
    moving = lab.a.start(client) if client else begin(lab, "--postcopy", *flow)
    wait_moving(lab.a)
    enter(lab, guest, phase)
    assert moving.running, moving.output()
    return guest, moving


def enter(lab: Lab, guest: LabGuest, phase: Phase) -> None:
    """Advance a running migration to ``phase``."""
    if phase is Phase.SWITCH_OVER:
        # With any downtime allowed, QEMU stops the guest immediately, with most of its memory to send.
        lab.a.virsh("migrate-setmaxdowntime", guest.name, "100000")
        until(lambda: reasons(lab, guest)[0] == "paused (migrating)", "for the guest to be stopped")
    elif phase is Phase.POST_COPY:
        lab.a.virsh("migrate-postcopy", guest.name)
        until(lambda: statuses(lab, guest)[1] == _RUNNING, "for the guest to run on B")


# State of the guest.


def reasons(lab: Lab, guest: LabGuest) -> tuple[str, ...]:
    """Return the state and reason of a guest in both libvirts; "" where it is not defined."""
    return tuple(
        host.virsh("domstate", guest.name, "--reason", check=False).stdout.strip() for host in lab.hosts
    )


def statuses(lab: Lab, guest: LabGuest) -> tuple[str, ...]:
    """Return the run states of the QEMUs on A and B."""
    return tuple(status(host, guest) for host in lab.hosts)


def status(host: LabHost, guest: LabGuest) -> str:
    """Return QEMU's run state. A QEMU that sends its last pages does not reply before they are sent."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(1)
        try:
            monitor.connect(str(host.plan.outside(guest.domain.monitor)))
        except OSError:  # QEMU has exited
            return _NO_QEMU
        try:
            return _ask_status(monitor)
        except TimeoutError:
            return _SILENT
        except (OSError, EOFError):  # it exited during the query
            return _NO_QEMU


def _ask_status(monitor: socket.socket) -> str:
    with monitor.makefile("rw") as lines:
        for command in ("qmp_capabilities", "query-status"):
            lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
        for line in lines:
            answer = json.loads(line).get("return", {})
            if "status" in answer:
                return str(answer["status"])
    raise EOFError


def runner(lab: Lab, guest: LabGuest) -> LabHost | None:
    """Return the host whose QEMU runs a guest, or None. Raises AssertionError when both do."""
    before, there = statuses(lab, guest)
    here = status(lab.a, guest)
    # It may have moved from A to B between the queries: then the second reply of A differs.
    assert (before, there, here) != (_RUNNING, _RUNNING, _RUNNING), "the guest runs on both sides"
    if _RUNNING in {here, there}:
        return lab.a if here == _RUNNING else lab.b
    return None


def ends_on(lab: Lab, guest: LabGuest, host: LabHost) -> None:
    """Check that a guest runs only on ``host`` within a minute, by QEMU and libvirt, and verify it."""
    other = next(each for each in lab.hosts if each is not host)
    left = {"shut off", "absent"} if other is lab.a else {"absent"}

    def settled() -> bool:
        return (
            runner(lab, guest) is host
            and status(other, guest) == _NO_QEMU
            and host.state(guest.name) == _RUNNING
            and other.state(guest.name) in left
        )

    try:
        until(settled, f"for {guest.name} to run only on {host.name}", SETTLED)
    except LabError as error:
        raise LabError(f"{error}; {statuses(lab, guest)}, {reasons(lab, guest)}") from error
    guest.verify(host)


def waits(lab: Lab, guest: LabGuest) -> None:
    """Wait until both libvirts report a failed post-copy that can be recovered."""
    broken = ("paused (post-copy failed)", "running (post-copy failed)")
    until(lambda: reasons(lab, guest) == broken, "for the post-copy to be paused", SETTLED)


def recovers(lab: Lab, guest: LabGuest, *flow: str) -> None:
    """Recover a failed post-copy, and verify the guest on B."""
    hasten(lab)
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
    take_up(lab, *flow)
    ends_on(lab, guest, lab.b)


# Faults.


def interrupt(lab: Lab) -> None:
    """Reset all TCP connections between the hosts, and refuse new ones, until ``mend``.

    RST passes, so that both ends detect it immediately; with ``firewall.cut`` they would run into timeouts.
    """
    for host in lab.hosts:
        script = (
            "insert rule inet lab_firewall input iif != lo meta l4proto tcp reject with tcp reset\n"
            "insert rule inet lab_firewall input iif != lo tcp flags & rst == rst accept\n"
        )
        host.run(["nft", "--file", "-"], input=script)


def mend(lab: Lab) -> None:
    """Restore the firewall: the hosts reach each other on port 16515 only."""
    for host in lab.hosts:
        host.firewall.close(but=(PORT,))


# Incidents and output.


def told(host: LabHost) -> str:
    """Return the incidents in ``status`` of a host's daemon, one per line."""
    incidents = host.daemons[-1].link(host.peer.name)["incidents"]
    return "\n".join(f"{each['what']}: {each['reason']}" for each in incidents)


def says(host: LabHost, *reasons: str) -> None:
    """Wait until the incidents in ``status`` of a host's daemon contain all of ``reasons``."""
    for reason in reasons:
        until(partial(_tells, host, reason), f"for {host.name} to report {reason!r}")


def _tells(host: LabHost, reason: str) -> bool:
    return reason in told(host)


def words(moving: Started) -> str:
    """Return the output of a started migration, which must have failed."""
    assert moving.wait(SETTLED) != 0, moving.output()
    return moving.output()

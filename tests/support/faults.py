"""Guests that are held in one phase of their migration, so that something can fail just then.

The network between the hosts is slow for that: a guest that writes faster than it carries is never done with
pre-copy, and one that is stopped for its last pages takes seconds to go over. Who runs a guest is asked of
both QEMUs themselves, on monitors of our own: they answer when a libvirtd is dead, too.
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
"""Seconds after a failure within which a guest must run on exactly one side."""

WINDOW = 1
"""Seconds that links wait for a lane in tests that have them give up."""

RESTLESS = Workload(working_set=16 * MIB, dirty_rate=16 * MIB)
"""A guest that writes twice as fast as the slow network carries."""

_RATE = "64mbit"
_RUNNING, _SILENT, _NO_QEMU = "running", "silent", "no QEMU"


class Phase(StrEnum):
    """Where in its migration a guest is."""

    PRE_COPY = "pre-copy"
    SWITCH_OVER = "switch-over"
    POST_COPY = "post-copy"


PHASES = pytest.mark.parametrize("phase", Phase)
STILL_HERE = pytest.mark.parametrize("phase", [Phase.PRE_COPY, Phase.SWITCH_OVER])
SIDES = pytest.mark.parametrize("side", [0, 1], ids=["source", "destination"])
FLOWS = pytest.mark.parametrize("flow", [(), ("--p2p",)], ids=["direct", "p2p"])


@pytest.fixture
def slow_lab(lab: Lab) -> Iterator[Lab]:
    """The lab, with a slow network until ``hasten``; QEMU on B may fetch pages."""
    lab.b.libvirtd.configure(qemu={"user": "root", "group": "root"})
    for host in lab.hosts:
        shape = ("tbf", "rate", _RATE, "burst", "64kb", "latency", "100ms")
        host.run(["tc", "qdisc", "add", "dev", "eth0", "root", *shape])
    yield lab
    hasten(lab)
    for host in lab.hosts:
        for daemon in host.daemons:
            daemon.kill()  # in order they would wait for streams that have nobody left


@pytest.fixture
def small_lab(lab: Lab) -> Iterator[Lab]:
    """A lab in which B has 4 MiB of room for disks."""
    lab.b.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0711", "tmpfs", IMAGES])
    yield lab
    lab.b.run(["umount", "--lazy", IMAGES])


def hasten(lab: Lab) -> None:
    """Let the network be as fast as it can."""
    for host in lab.hosts:
        host.run(["tc", "qdisc", "del", "dev", "eth0", "root"], check=False)


def link(lab: Lab, window: float = 30) -> None:
    """Start both daemons as README does, links waiting ``window`` seconds for a new lane."""
    egress = (MIGRATION_PORTS, LIBVIRT)
    lab.start_daemons(both_ways(), egress=egress, transport={"resume_window": f"{window}s"})


def hold(
    lab: Lab, phase: Phase, *flow: str, window: float = 30, client: Sequence[str] = ()
) -> tuple[LabGuest, Started]:
    """Start web1, link the hosts, begin to move it, and return when it is in ``phase``.

    ``client`` is the command that moves it; without one virsh does.
    """
    guest = lab.start_guest(workload=RESTLESS)
    link(lab, window)
    moving = lab.a.start(client) if client else begin(lab, "--postcopy", *flow)
    wait_moving(lab.a)
    enter(lab, guest, phase)
    assert moving.running, moving.output()
    return guest, moving


def enter(lab: Lab, guest: LabGuest, phase: Phase) -> None:
    """Let a migration that began go on to ``phase``."""
    if phase is Phase.SWITCH_OVER:
        # Any downtime will do: QEMU stops the guest at once, with most of its memory still to go.
        lab.a.virsh("migrate-setmaxdowntime", guest.name, "100000")
        until("the guest to be stopped", lambda: reasons(lab, guest)[0] == "paused (migrating)")
    elif phase is Phase.POST_COPY:
        lab.a.virsh("migrate-postcopy", guest.name)
        until("the guest to run on B", lambda: statuses(lab, guest)[1] == _RUNNING)


# Where the guest is.


def reasons(lab: Lab, guest: LabGuest) -> tuple[str, ...]:
    """What both libvirts say of a guest, and why; nothing where they do not know it."""
    return tuple(
        host.virsh("domstate", guest.name, "--reason", check=False).stdout.strip() for host in lab.hosts
    )


def statuses(lab: Lab, guest: LabGuest) -> tuple[str, ...]:
    """The run states of the QEMUs on A and B."""
    return tuple(status(host, guest) for host in lab.hosts)


def status(host: LabHost, guest: LabGuest) -> str:
    """QEMU's run state. One that writes its last pages is silent until they are written."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(1)
        try:
            monitor.connect(str(host.plan.outside(guest.domain.monitor)))
        except OSError:  # nobody listens: QEMU has ended
            return _NO_QEMU
        try:
            return _ask_status(monitor)
        except TimeoutError:
            return _SILENT
        except (OSError, EOFError):  # it ended while we asked
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
    """The host whose QEMU runs a guest, or None. Two at a time are an AssertionError."""
    before, there = statuses(lab, guest)
    here = status(lab.a, guest)
    # It may have gone from A to B while we asked: then A's second answer is another.
    assert (before, there, here) != (_RUNNING, _RUNNING, _RUNNING), "the guest runs on both sides"
    if _RUNNING in {here, there}:
        return lab.a if here == _RUNNING else lab.b
    return None


def ends_on(lab: Lab, guest: LabGuest, host: LabHost) -> None:
    """Prove that a guest runs on ``host`` alone within a minute, by QEMU and libvirt, and is whole there."""
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
        until(f"{guest.name} to run on {host.name} alone", settled, SETTLED)
    except LabError as error:
        raise LabError(f"{error}; {statuses(lab, guest)}, {reasons(lab, guest)}") from error
    guest.verify(host)


def waits(lab: Lab, guest: LabGuest) -> None:
    """Wait until both libvirts say that a post-copy broke off and can be taken up again."""
    broken = ("paused (post-copy failed)", "running (post-copy failed)")
    until("the post-copy to wait", lambda: reasons(lab, guest) == broken, SETTLED)


def recovers(lab: Lab, guest: LabGuest, *flow: str) -> None:
    """Take a broken post-copy up again, and prove that the guest is whole on B."""
    hasten(lab)
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
    take_up(lab, *flow)
    ends_on(lab, guest, lab.b)


# What fails.


def interrupt(lab: Lab) -> None:
    """Break all TCP connections between the hosts, and refuse new ones, until ``mend``.

    Resets come through, so that both ends know at once; with ``firewall.cut`` they would have to guess.
    """
    for host in lab.hosts:
        script = (
            "insert rule inet lab_firewall input iif != lo meta l4proto tcp reject with tcp reset\n"
            "insert rule inet lab_firewall input iif != lo tcp flags & rst == rst accept\n"
        )
        host.run(["nft", "--file", "-"], input=script)


def mend(lab: Lab) -> None:
    """Let the hosts reach each other again, by the one port."""
    for host in lab.hosts:
        host.firewall.close(but=(PORT,))


# Who says so.


def told(host: LabHost) -> str:
    """What a host's daemon says in ``status`` that went wrong, a line for each."""
    incidents = host.daemons[-1].link(host.peer.name)["incidents"]
    return "\n".join(f"{each['what']}: {each['reason']}" for each in incidents)


def says(host: LabHost, *reasons: str) -> None:
    """Wait until a host's daemon says all of this in ``status``."""
    for reason in reasons:
        until(f"{host.name} to say {reason!r}", partial(_tells, host, reason))


def _tells(host: LabHost, reason: str) -> bool:
    return reason in told(host)


def words(moving: Started) -> str:
    """What a migration said that was begun and must have failed."""
    assert moving.wait(SETTLED) != 0, moving.output()
    return moving.output()

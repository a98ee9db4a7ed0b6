"""Four guests in each direction, concurrently, over one port and one connection."""

from __future__ import annotations

import pytest

from tests.support.migrations import begin, finished, ingress, link, nobody_else_was_let_in, sent, wait_moving
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.lab import Lab
from tunnel.proof.pattern_guest import PAGE, Workload
from tunnel.units import MIB

pytestmark = [pytest.mark.root, pytest.mark.slow]

EACH_WAY = 4


def start_guests(lab: Lab) -> list[tuple[LabGuest, LabHost]]:
    """Start guests with different memory contents; return each with its host."""
    sources = [lab.a] * EACH_WAY + [lab.b] * EACH_WAY
    return [
        (
            lab.start_guest(
                f"web{number}",
                host=source,
                memory=32 * MIB,
                workload=Workload(working_set=4 * MIB, dirty_rate=MIB // 4, seed=number),
            ),
            source,
        )
        for number, source in enumerate(sources, start=1)
    ]


def test_four_guests_each_way_cross_at_once(lab: Lab) -> None:
    guests = start_guests(lab)
    link(lab)
    slowly = ("--p2p", "--bandwidth", "1")  # half a minute, within which all must have started
    moving = [begin(lab, *slowly, guest=guest.name, source=source) for guest, source in guests]
    for guest, source in guests:
        wait_moving(source, guest.name)
    assert all(each.running for each in moving)
    assert [len(host.daemons[-1].link(host.peer.name)["lanes"]) for host in lab.hosts] == [1, 1]
    for guest, source in guests:
        source.virsh("migrate-setspeed", guest.name, "1000")
    for each in moving:
        finished(each)
    filled = dict.fromkeys(lab.hosts, 0)
    for guest, source in guests:
        assert lab.runner(guest.name) is not source
        filled[source] += guest.verify(lab.runner(guest.name)).pages * PAGE
    for host in lab.hosts:
        assert sent(host) >= filled[host]
        assert ingress(host, "redirect:")["accepted"] == EACH_WAY
    nobody_else_was_let_in(lab)

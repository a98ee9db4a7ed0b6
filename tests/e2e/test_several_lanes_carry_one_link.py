"""A link of several lanes through one port: a guest migrates over them, and loses nothing if some fail."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cutter import Cutter
from tests.support.daemons import TwoHosts, until
from tests.support.guests import BUSY, MEMORY, MULTIFD
from tests.support.streams import Target, connect, receive_all, send_bulk
from tunnel.proof.free_port import free_port
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB

SIZE = 48 * MIB


@pytest.fixture
def cutter(hosts: TwoHosts) -> Iterator[Cutter]:
    """A proxy whose address host a has configured for host b."""
    with Cutter(hosts.b.address) as between:
        hosts.a.knows(hosts.b, between.address)
        yield between


def start(hosts: TwoHosts, ours: int, theirs: int) -> None:
    """Start both daemons and wait until the link has all its lanes."""
    hosts.a.transport = {"lanes": ours}
    hosts.b.transport = {"lanes": theirs}
    hosts.start()
    until(lambda: lanes(hosts) == (min(ours, theirs),) * 2, "for every lane")


def lanes(hosts: TwoHosts) -> tuple[int, int]:
    return len(hosts.a.link(hosts.b)["lanes"]), len(hosts.b.link(hosts.a)["lanes"])


@pytest.mark.parametrize(("ours", "theirs"), [(4, 4), (3, 16), (2, 1)])
def test_bulk_in_both_directions_uses_every_lane_that_both_hosts_allow(
    hosts: TwoHosts, target: Target, background: ThreadPoolExecutor, ours: int, theirs: int
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    start(hosts, ours, theirs)
    with connect(entry) as caller, target.accept() as called:
        sending = [background.submit(send_bulk, sock, SIZE) for sock in (caller, called)]
        receiving = [background.submit(receive_all, sock) for sock in (called, caller)]
        assert [each.result() for each in sending] == [each.result() for each in receiving]
    for host, peer in hosts.both_ways:
        assert all(lane["bytes_sent"] > MIB for lane in host.link(peer)["lanes"])
        assert host.link(peer)["resumes"] == 0


def test_lanes_that_are_cut_lose_no_bytes(
    hosts: TwoHosts, target: Target, cutter: Cutter, background: ThreadPoolExecutor
) -> None:
    """The cutter cuts the lane that carries the byte, while the others continue."""
    entry = hosts.a.leads_to(hosts.b, target.address)
    start(hosts, 3, 3)
    with connect(entry) as caller, target.accept() as called:
        cutter.one_at_a_time = True
        cutter.cut_after(MIB, 7 * MIB, 5, 9 * MIB + 13, 2 * MIB)
        sending = [background.submit(send_bulk, sock, SIZE) for sock in (caller, called)]
        receiving = [background.submit(receive_all, sock) for sock in (called, caller)]
        assert [each.result() for each in sending] == [each.result() for each in receiving]
        assert cutter.cuts_left == 0
    until(lambda: lanes(hosts) == (3, 3), "for every lane to be replaced")
    assert hosts.a.link(hosts.b)["resumes"] >= 1


@pytest.mark.slow
async def test_guest_crosses_over_several_lanes_of_which_one_is_cut(
    hosts: TwoHosts, cutter: Cutter, tmp: Path
) -> None:
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry = hosts.a.leads_to(hosts.b, listen)
    start(hosts, 2, 2)
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        cutter.one_at_a_time = True
        cutter.cut_after(MEMORY // 2)
        await trial.migrate(entry, listen, MULTIFD)
        assert cutter.cuts_left == 0
        await trial.verify()
    assert hosts.a.link(hosts.b)["resumes"] >= 1

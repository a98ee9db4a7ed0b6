"""Lanes are rotated under load in both directions: no byte is lost or duplicated, no old lane remains."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cutter import Cutter
from tests.support.daemons import TwoHosts, standing_lanes, until
from tests.support.guests import BUSY, MEMORY, MULTIFD, POSTCOPY, PRECOPY, mode_of
from tests.support.streams import Target, connect, exchange, receive_all, send_bulk
from tunnel.proof.free_port import free_port
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.move_options import MoveOptions

SIZE = 24 * MIB
STREAMS = 4
LARGE = 4096 * MIB
DISK = 3072 * MIB
OFTEN = {"rotate_records": 1024}  # 16 MiB each way


@pytest.fixture
def cutter(hosts: TwoHosts) -> Iterator[Cutter]:
    """A proxy whose address host a has configured for host b."""
    with Cutter(hosts.b.address) as between:
        hosts.a.knows(hosts.b, between.address)
        yield between


def rotations(hosts: TwoHosts) -> tuple[int, int]:
    a, b = (host.link(peer)["rotation"]["rotations"] for host, peer in hosts.both_ways)
    return a, b


@pytest.mark.parametrize("lanes", [1, 2])
def test_bulk_in_both_directions_is_intact_while_lanes_are_rotated(
    hosts: TwoHosts, target: Target, background: ThreadPoolExecutor, lanes: int
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    for host in (hosts.a, hosts.b):
        host.transport = {"lanes": lanes, **OFTEN}
    hosts.start()
    until(lambda: len(hosts.a.link(hosts.b)["lanes"]) == lanes, "for every lane")
    least = STREAMS * SIZE // (16 * MIB) // lanes // 2
    while min(rotations(hosts)) < least:  # rotations take time: the bulk may end before
        with ExitStack() as stack:
            ends = [
                (stack.enter_context(connect(entry)), stack.enter_context(target.accept()))
                for _ in range(STREAMS)
            ]
            sending = [background.submit(send_bulk, sock, SIZE) for pair in ends for sock in pair]
            receiving = [background.submit(receive_all, sock) for pair in ends for sock in pair[::-1]]
            assert [each.result() for each in sending] == [each.result() for each in receiving]
    until(lambda: len(set(rotations(hosts))) == 1, "for the same count at both hosts")
    assert rotations(hosts)[0] >= least
    for host, peer in hosts.both_ways:
        assert host.link(peer)["resumes"] == 0
        assert {each["what"] for each in host.link(peer)["incidents"]} <= {"cannot connect"}, "at the start"
        until(lambda: len(standing_lanes(host, peer)) == lanes, "for every lane")  # noqa: B023  called here


def test_the_host_that_does_not_dial_requests_a_rotation(
    hosts: TwoHosts, target: Target, background: ThreadPoolExecutor
) -> None:
    """Only its keys have a low limit."""
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.b.transport = dict(OFTEN)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        sending = [background.submit(send_bulk, sock, 2 * SIZE) for sock in (caller, called)]
        receiving = [background.submit(receive_all, sock) for sock in (called, caller)]
        assert [each.result() for each in sending] == [each.result() for each in receiving]
    until(lambda: min(rotations(hosts)) >= 1, "for a rotation")
    last = hosts.a.link(hosts.b)["rotation"]["last"]
    assert last is not None
    assert last["reason"] == "requested by the peer"
    assert hosts.a.link(hosts.b)["resumes"] == 0


def test_old_lane_continues_if_no_new_one_can_connect(
    hosts: TwoHosts, target: Target, cutter: Cutter, background: ThreadPoolExecutor
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.a.transport = dict(OFTEN)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        cutter.closed = True
        sending = [background.submit(send_bulk, sock, 2 * SIZE) for sock in (caller, called)]
        receiving = [background.submit(receive_all, sock) for sock in (called, caller)]
        assert [each.result() for each in sending] == [each.result() for each in receiving]
        hosts.a.wait_log("lane not replaced.*lane 1 stays in use")
        assert rotations(hosts) == (0, 0)
        cutter.closed = False
    until(lambda: min(rotations(hosts)) >= 1, "for the rotation")
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
    assert hosts.a.link(hosts.b)["resumes"] == 0
    assert "lane not replaced" in [each["what"] for each in hosts.a.link(hosts.b)["incidents"]]


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("options", [PRECOPY, MULTIFD, POSTCOPY], ids=mode_of)
async def test_guest_crosses_while_lanes_are_replaced(
    hosts: TwoHosts, tmp: Path, options: MoveOptions, lanes: int
) -> None:
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry = hosts.a.leads_to(hosts.b, listen)
    for host in (hosts.a, hosts.b):
        host.transport = {"lanes": lanes, **OFTEN}
    hosts.start()
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        await trial.migrate(entry, listen, options)
        await trial.verify()
    assert min(rotations(hosts)) >= MEMORY // (64 * MIB) // lanes
    for host, peer in hosts.both_ways:
        assert host.link(peer)["resumes"] == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [PRECOPY, MULTIFD, POSTCOPY], ids=mode_of)
async def test_large_guest_and_bulk_beside_it_cross_during_hundreds_of_rotations(
    hosts: TwoHosts, tmp: Path, target: Target, background: ThreadPoolExecutor, options: MoveOptions
) -> None:
    """The slower a machine, the more bytes a lane carries before its replacement is up."""
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry, disk = (hosts.a.leads_to(hosts.b, address) for address in (listen, target.address))
    for host in (hosts.a, hosts.b):
        host.transport = dict(OFTEN)
    hosts.start()
    async with await Trial.start(tmp, LARGE, BUSY) as trial:
        with connect(disk) as caller, target.accept() as called:
            sending = background.submit(send_bulk, caller, DISK)
            receiving = background.submit(receive_all, called)
            await trial.migrate(entry, listen, replace(options, bandwidth=LARGE // 16))
            crossed = min(rotations(hosts))
            assert sending.result() == receiving.result()
        await trial.verify()
    assert crossed >= 200
    for host, peer in hosts.both_ways:
        assert host.link(peer)["resumes"] == 0
        assert host.link(peer)["rotation"]["most_records"] < 10 * OFTEN["rotate_records"]

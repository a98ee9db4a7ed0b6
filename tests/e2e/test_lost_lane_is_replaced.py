"""A lane that is cut is replaced, and no stream is affected."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support.cutter import Cutter
from tests.support.daemons import TwoHosts, is_idle, until
from tests.support.guests import BUSY, MEMORY, MULTIFD, POSTCOPY, PRECOPY, mode_of
from tests.support.streams import Target, connect, exchange, receive, receive_all, send_bulk
from tunnel.proof.free_port import free_port
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.move_options import MoveOptions

SIZE = 24 * MIB


@pytest.fixture
def cutter(hosts: TwoHosts) -> Iterator[Cutter]:
    """A proxy whose address host a has configured for host b."""
    with Cutter(hosts.b.address) as between:
        hosts.a.knows(hosts.b, between.address)
        yield between


def resumes(hosts: TwoHosts) -> tuple[int, int]:
    return hosts.a.link(hosts.b)["resumes"], hosts.b.link(hosts.a)["resumes"]


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param((1,), id="at the first byte"),
        pytest.param((20 * MIB,), id="once"),
        pytest.param((MIB + 1, 7, 4 * MIB - 3, 99_991, 11 * MIB, 5), id="often"),
        pytest.param((300, 2500) * 4, id="in every handshake"),
    ],
)
def test_bulk_in_both_directions_survives_cuts(
    hosts: TwoHosts, target: Target, cutter: Cutter, background: ThreadPoolExecutor, cuts: tuple[int, ...]
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        cutter.cut_after(*cuts)
        sending = [background.submit(send_bulk, sock, SIZE) for sock in (caller, called)]
        receiving = [background.submit(receive_all, sock) for sock in (called, caller)]
        assert [each.result() for each in sending] == [each.result() for each in receiving]
        assert cutter.cuts_left == 0
    assert min(resumes(hosts)) >= 1


def test_cut_while_idle_has_no_effect(hosts: TwoHosts, target: Target, cutter: Cutter) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        cutter.cut()
        until(lambda: resumes(hosts) == (1, 1), "for the link to resume")
        exchange(caller, called)
    hosts.a.wait_log("lane 2 replaces lane 1")
    assert "connection reset" in " ".join(hosts.a.reasons(hosts.b)).lower()


def test_stream_opened_while_the_lane_is_lost_waits_for_the_next(
    hosts: TwoHosts, target: Target, cutter: Cutter
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    cutter.stall()
    cutter.cut()
    until(lambda: hosts.a.link(hosts.b)["state"] == "resuming", "for the loss to be detected")
    with connect(entry) as caller:
        cutter.flow()
        with target.accept() as called:
            exchange(caller, called)


def test_end_of_a_stream_survives_a_cut(hosts: TwoHosts, target: Target, cutter: Cutter) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    for after in range(30, 400, 45):  # an end is a FIN and a DELIVERED each way: 28 bytes and TLS
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)
            cutter.cut_after(after)
            for sock in (caller, called):
                sock.sendall(b"last bytes")
                sock.shutdown(socket.SHUT_WR)
            assert [receive(sock, 10) + sock.recv(1) for sock in (called, caller)] == [b"last bytes"] * 2
        for host, peer in hosts.both_ways:
            until(partial(is_idle, host, peer), "for the stream to end")
    assert min(resumes(hosts)) >= 5


def test_lane_that_is_lost_in_its_handshake_is_replaced_too(
    hosts: TwoHosts, target: Target, cutter: Cutter
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        before = cutter.carried
        cutter.cut()
        until(lambda: resumes(hosts) == (1, 1), "for the link to resume")
        whole = cutter.carried - before  # a handshake, RESUME and RESUMED
        cutter.cut_after(1, *range(whole - 400, whole + 80, 60))
        while cutter.cuts_left:  # the last may be some bytes beyond a handshake
            exchange(caller, called)
        exchange(caller, called)


@pytest.mark.slow
@pytest.mark.parametrize("options", [PRECOPY, MULTIFD, POSTCOPY], ids=mode_of)
async def test_guest_arrives_although_the_lane_is_cut(
    hosts: TwoHosts, cutter: Cutter, tmp: Path, options: MoveOptions
) -> None:
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry = hosts.a.leads_to(hosts.b, listen)
    hosts.start()
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        cutter.cut_after(MEMORY // 2)
        await trial.migrate(entry, listen, options)
        assert cutter.cuts_left == 0
        await trial.verify()
    here, there = resumes(hosts)
    assert here == there
    assert 1 <= here <= len(hosts.a.link(hosts.b)["sessions"])

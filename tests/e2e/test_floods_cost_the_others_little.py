"""Floods of unauthenticated connections, and a peer that floods its link, do not affect other links."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from tests.support.cutter import Cutter
from tests.support.daemons import Host, TwoHosts, until
from tests.support.floods import Flood
from tests.support.streams import Target, connect, exchange
from tunnel.bench.measure.callers import Says
from tunnel.bench.measure.raw_peer import RawPeer, client_context
from tunnel.relay.lane_acceptor import MOST_LOOSE
from tunnel.wire.codec import data_header, encode
from tunnel.wire.frames import Credit, Open, Opened, Ping

SOON = 5.0
"""Seconds within which a lane that was cut is replaced, even during a flood."""


def has_resumed(hosts: TwoHosts, times: int) -> bool:
    return bool(hosts.b.link(hosts.a)["resumes"] == times)


@pytest.mark.parametrize("says", Says)
def test_lane_is_replaced_during_a_flood_from_the_peers_own_address(
    hosts: TwoHosts, target: Target, says: Says
) -> None:
    with Cutter(hosts.b.address) as between:
        hosts.a.knows(hosts.b, between.address)
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        with connect(entry) as caller, target.accept() as called, Flood(hosts.b.address, says) as flood:
            until(lambda: hosts.b.status()["rejected"] > 100, "for the flood to be rejected")
            for count in (1, 2, 3):
                between.cut()
                began = time.monotonic()
                until(partial(has_resumed, hosts, count), "for the lane to be replaced")
                assert time.monotonic() - began < SOON
                exchange(caller, called)
            assert flood.made > 100


def test_host_can_link_during_a_flood(hosts: TwoHosts, target: Target) -> None:
    hosts.a.leads_to(hosts.b, target.address)
    hosts.b.start()
    hosts.b.wait_serving()
    with Flood(hosts.b.address, Says.SILENT):
        until(lambda: hosts.b.status()["rejected"] > 100, "for the flood to be rejected")
        hosts.a.start()
        hosts.wait_up()


@pytest.fixture
def culprit(hosts: TwoHosts) -> Host:
    """A third host, a configured peer of b; it runs no daemon."""
    third = hosts.another("hostc", "127.0.0.5")
    hosts.b.knows(third)
    return third


Block = Callable[[RawPeer, str], Callable[[], bytes]]


def pings(_: RawPeer, __: str) -> Callable[[], bytes]:
    block = encode(Ping(7)) * 20_000
    return lambda: block


def credits_(peer: RawPeer, target: str) -> Callable[[], bytes]:
    _opened(peer, target)
    block = encode(Credit(1, 0, 1 << 40)) * 20_000
    return lambda: block


def bytes_(peer: RawPeer, target: str) -> Callable[[], bytes]:
    """DATA frames of one byte each; the target does not read, so the window ends them."""
    limit, offset = _opened(peer, target).limit, 0

    def block() -> bytes:
        nonlocal offset
        first, offset = offset, min(offset + 20_000, limit)
        return b"".join(data_header(1, at, 1) + b"x" for at in range(first, offset)) or encode(Ping(1))

    return block


def _opened(peer: RawPeer, target: str) -> Opened:
    peer.send(Open(1, 1 << 40, target))
    answer = peer.receive()
    assert isinstance(answer, Opened), answer
    return answer


@contextmanager
def flooding(address: str, culprit: Host, flood: Block, target: str) -> Iterator[None]:
    """Let ``culprit`` send the frames of ``flood`` continuously on its own lane."""
    over = threading.Event()
    with RawPeer(address, client_context(culprit.files)) as peer:
        peer.greet()
        block = flood(peer, target)

        def run() -> None:
            with suppress(OSError):
                while not over.is_set():
                    peer.send_raw(block())

        thread = threading.Thread(target=run, name="culprit")
        thread.start()
        try:
            yield
        finally:
            over.set()
            peer.hang_up()
            thread.join()


@pytest.mark.parametrize("flood", [pings, credits_, bytes_], ids=["PING", "CREDIT", "DATA"])
def test_tiny_frames_of_one_peer_do_not_delay_others(
    hosts: TwoHosts, culprit: Host, target: Target, flood: Block
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    with Target() as reachable:
        hosts.b.egress["hostc"] += [reachable.address]
        hosts.start()
        with (
            connect(entry) as caller,
            target.accept() as called,
            flooding(hosts.b.address, culprit, flood, reachable.address),
        ):
            for _ in range(50):
                exchange(caller, called)
    assert hosts.b.link(hosts.a)["resumes"] == 0
    assert not [line for line in hosts.b.log.splitlines() if "peer=hosta" in line and "lost" in line]


def test_refused_lanes_that_a_peer_does_not_close_are_bounded(
    hosts: TwoHosts, culprit: Host, target: Target
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        before = hosts.b.descriptors
        held: list[RawPeer] = []
        for _ in range(4 * MOST_LOOSE):
            with suppress(OSError):
                held.append(RawPeer(hosts.b.address, client_context(culprit.files)))
                held[-1].send_raw(b"\xff" * 20)  # refused with GOAWAY, which is not read
            assert hosts.b.descriptors - before <= 3 * (MOST_LOOSE + 1)
        exchange(caller, called)
        for peer in held:
            peer.close()

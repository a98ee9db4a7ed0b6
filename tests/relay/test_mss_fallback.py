"""Smaller segments if full-size packets are lost: sizes, conditions, and over a path that drops them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lanes import Hosts, baselane
from tests.support.links import make_link
from tests.support.namespace import nft
from tests.support.relays import Relay, relaying, send, take
from tests.support.waiting import until
from tunnel.errors import LaneStalled
from tunnel.net import sockets
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.mss_fallback import KEPT, SIZES, SUSPECTED, MssFallback
from tunnel.tls import handshake
from tunnel.tls.contexts import TlsContexts
from tunnel.units import MIB

FULL, SMALL, LEAST = SIZES
PROVEN = LaneStalled("nothing gets through", 15.0, proven=True)


def suspected(seconds: float) -> LaneStalled:
    return LaneStalled("nothing gets through", seconds)


def test_full_segments_are_first_and_again_after_the_smallest() -> None:
    segments = MssFallback()
    assert segments.size(0) is FULL
    for now, size in enumerate((SMALL, LEAST, FULL), 1):
        assert segments.stalled(now, PROVEN)
        assert segments.size(now) is size


def test_reduced_size_is_kept_for_a_time() -> None:
    segments = MssFallback()
    segments.stalled(100, PROVEN)
    assert segments.size(100 + KEPT - 1) == SMALL
    assert segments.size(100 + KEPT) is FULL
    assert segments.stalled(100 + KEPT, PROVEN)
    assert segments.size(100 + KEPT) == SMALL, "from the start again"


def test_hung_peer_does_not_reduce_segments() -> None:
    segments = MssFallback()
    assert not segments.stalled(100, suspected(15))
    assert not segments.stalled(104, suspected(15)), "another lane of the same time"
    assert not segments.stalled(115 + SUSPECTED, suspected(14)), "too long ago"
    assert segments.size(200) is FULL


@pytest.mark.parametrize("seconds", [10, 15])
def test_second_stall_of_a_new_connection_counts(seconds: float) -> None:
    segments = MssFallback()
    assert not segments.stalled(100, suspected(15))
    assert segments.stalled(116, suspected(seconds))
    assert segments.size(116) == SMALL
    assert segments.stalled(127, suspected(10)), "below full size every stall counts"
    assert segments.size(127) == LEAST


def a_dialer() -> Dialer:
    def contexts() -> TlsContexts:
        raise AssertionError("nothing is dialled here")

    return Dialer(DialPlan("127.0.0.1", 1, contexts, None), make_link("hosta", "hostb"))


async def test_several_lanes_that_stall_together_count_once() -> None:
    dialer = a_dialer()
    for _ in range(2):
        dialer._link.stalled = PROVEN
        dialer._learn_from_loss(0)
    assert dialer._segments.size(0) == SMALL
    assert dialer._link.stalled is None


# On a path that drops full-size packets without ICMP.


@pytest.fixture
def hosts(tmp: Path) -> Hosts:
    return Hosts.create(tmp / "pki")


@pytest.fixture
def swallow(network: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Drop packets above a size from now on. The kernel sends them one by one, as on a wire."""
    subprocess.run(["ip", "link", "set", "lo", "gso_max_segs", "1"], check=True, timeout=60)
    monkeypatch.setattr(handshake, "TIMEOUT", 1.0)
    monkeypatch.setattr(sockets, "USER_TIMEOUT_MS", 1500)

    def drop(above: int) -> None:
        nft("add table inet hole { chain in { type filter hook input priority 0; } ; }")
        nft("add", "rule", "inet", "hole", "in", "meta", "length", ">", str(above), "drop")

    return drop


def segment_of(relay: Relay) -> int:
    [lane] = relay.a.lanes.values()
    return baselane(lane)._sock.getsockopt(6, 2)  # TCP_MAXSEG


@pytest.mark.root
@pytest.mark.parametrize(("above", "segment"), [(1400, SMALL), (600, LEAST)])
async def test_link_comes_up_where_full_packets_are_lost(
    hosts: Hosts, swallow: Callable[[int], None], tmp: Path, above: int, segment: int
) -> None:
    swallow(above)
    async with relaying(hosts, ("userspace", "userspace"), tmp) as relay, asyncio.timeout(90):
        one, other = await relay.stream()
        with one, other:
            await asyncio.gather(send(one, MIB), take(other, MIB), send(other, MIB), take(one, MIB))
        assert segment_of(relay) <= segment
        reasons = [incident.reason for incident in relay.a.incidents]
        assert any("is the path MTU smaller" in reason for reason in reasons)
        assert any(f"uses {segment}-byte segments" in reason for reason in reasons)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
async def test_stream_survives_where_full_packets_begin_to_be_lost(
    hosts: Hosts, swallow: Callable[[int], None], tmp: Path, back: bool
) -> None:
    async with relaying(hosts, ("userspace", "userspace"), tmp) as relay, asyncio.timeout(90):
        one, other = await relay.stream()
        if back:
            one, other = other, one
        with one, other:
            size = 64 * MIB
            sending = asyncio.create_task(send(one, size))
            pumps = (relay.a if back else relay.b).streams.pumps
            taking = asyncio.create_task(take(other, size))
            await until(lambda: pumps[1].bytes_written > MIB, "for the stream to be under way")
            swallow(1400)
            await until(lambda: relay.a.resumes or sending.done(), "for another lane", 60)
            assert relay.a.resumes
            await asyncio.gather(sending, taking)
        assert segment_of(relay) <= SMALL

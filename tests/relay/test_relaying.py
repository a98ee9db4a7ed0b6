"""Streams from hypervisor to hypervisor, over each kind of lane at each end, also with lost lanes."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.support.lanes import EMULATED, Hosts, Kinds, each_pairing
from tests.support.relays import relaying, send, take
from tests.support.waiting import until
from tunnel.relay import rotator
from tunnel.units import KIB, MIB
from tunnel.wire.rotation import RotationPlan
from tunnel.wire.window import INITIAL_WINDOW

ODD_SIZES = (1, 20, 700, 4093, 16384, 16385, 65536)
BULK = MIB if EMULATED else 6 * MIB


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Two hosts with certificates."""
    return Hosts.create(tmp_path_factory.mktemp("relaying") / "pki")


@each_pairing
async def test_streams_cross_both_ways_in_pieces_of_any_size(hosts: Hosts, kinds: Kinds, tmp: Path) -> None:
    async with relaying(hosts, kinds, tmp) as relay, asyncio.timeout(90):
        one, other = await relay.stream()
        with one, other:
            await asyncio.gather(
                send(one, BULK, ODD_SIZES), take(other, BULK), send(other, BULK), take(one, BULK)
            )
        await until(lambda: relay.idle)


@each_pairing
async def test_slow_reader_gets_everything_and_blocks_no_other(hosts: Hosts, kinds: Kinds, tmp: Path) -> None:
    async with relaying(hosts, kinds, tmp) as relay, asyncio.timeout(90):
        slow, slow_end = await relay.stream()
        quick, quick_end = await relay.stream()
        size = INITIAL_WINDOW + 4 * MIB  # more than the socket buffers on the path
        with slow, slow_end, quick, quick_end:
            stalled = asyncio.create_task(send(slow, size))
            await asyncio.gather(send(quick, BULK), take(quick_end, BULK))
            assert not stalled.done(), "the window bounds buffered payload"
            slow_end.shutdown(socket.SHUT_WR)
            quick_end.shutdown(socket.SHUT_WR)
            await asyncio.gather(stalled, take(slow_end, size, slowly=True), take(slow, 0))
        await until(lambda: relay.idle)


@each_pairing
async def test_a_reset_reaches_the_other_side_and_no_other_stream(
    hosts: Hosts, kinds: Kinds, tmp: Path
) -> None:
    async with relaying(hosts, kinds, tmp) as relay, asyncio.timeout(90):
        doomed, doomed_end = await relay.stream()
        other, other_end = await relay.stream()
        with doomed, other, other_end:
            flood = asyncio.create_task(send(doomed, 1 << 40))
            moving = asyncio.gather(send(other, BULK), take(other_end, BULK))
            await until(lambda: relay.b.streams.pumps[1].bytes_written > 100 * KIB)
            doomed_end.close()
            with pytest.raises(ConnectionError):
                await flood
            await moving
            other_end.shutdown(socket.SHUT_WR)
            await until(lambda: relay.idle)


@each_pairing
async def test_a_reset_reaches_a_writer_that_reads_nothing(hosts: Hosts, kinds: Kinds, tmp: Path) -> None:
    """The reverse direction is full, and the socket is not read: only a write or poll shows the reset."""
    async with relaying(hosts, kinds, tmp) as relay, asyncio.timeout(90):
        doomed, doomed_end = await relay.stream()
        with doomed:
            filling = asyncio.create_task(send(doomed_end, 1 << 40))
            assert relay.b.session is not None
            await until(lambda: relay.b.session and relay.b.session.is_blocked(1), "for the path to fill")
            await asyncio.get_running_loop().sock_sendall(doomed, bytes(KIB))  # stays unread: a reset
            await until(lambda: relay.b.streams.pumps[1].bytes_written == KIB)
            filling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await filling
            doomed_end.close()
            with pytest.raises(ConnectionError):
                await send(doomed, 1 << 40)
        await until(lambda: relay.idle)


@each_pairing
async def test_lanes_are_replaced_under_bulk(
    hosts: Hosts, kinds: Kinds, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotator, "SPACING", 0.0)
    often = RotationPlan(records=16)
    async with relaying(hosts, kinds, tmp, rotation=often) as relay, asyncio.timeout(90):
        one, other = await relay.stream()
        with one, other:
            await asyncio.gather(
                send(one, BULK, ODD_SIZES), take(other, BULK), send(other, BULK), take(one, BULK)
            )
        await until(lambda: relay.idle)
        await until(lambda: relay.a.rotations == relay.b.rotations >= 1, "for rotations")
        assert relay.a.resumes == relay.b.resumes == 0


@each_pairing
async def test_payload_lost_with_a_lane_is_sent_again(hosts: Hosts, kinds: Kinds, tmp: Path) -> None:
    async with relaying(hosts, kinds, tmp, cut=True) as relay, asyncio.timeout(90):
        assert relay.cutter is not None
        one, other = await relay.stream()
        third, fourth = await relay.stream()
        relay.cutter.cut_after(BULK // 2 + 1, BULK - 7, 3)
        with one, other, third, fourth:
            await asyncio.gather(
                send(one, BULK, ODD_SIZES),
                take(other, BULK),
                send(other, BULK),
                take(one, BULK),
                send(third, MIB),
                take(fourth, MIB),
                send(fourth, 0),
                take(third, 0),
            )
        await until(lambda: relay.idle)
        assert relay.a.resumes == relay.b.resumes >= 2, "one cut may come before a lane is one"
        assert not relay.cutter.cuts_left

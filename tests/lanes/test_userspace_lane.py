"""Specific to the userspace lane: records, buffers, and its socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tests.support.driver import TARGET
from tests.support.lanes import Endless, Hosts, unread_for_now
from tests.support.userspacelanes import each_engine, fill, lane_and_peer, pings, unread
from tests.support.waiting import turns, until
from tunnel.errors import LaneLost
from tunnel.lanes import base_lane
from tunnel.lanes.quanta import MOST_FRAMES, Turn
from tunnel.lanes.userspace_lane import EXPECTED, SMALL, UserspaceLane
from tunnel.records.record_opener import MOST_READS
from tunnel.records.tls_messages import RECORD
from tunnel.units import KIB
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import HEADER_SIZE, MAX_DATA, Code
from tunnel.wire.frames import Credit, GoAway, Open, Ping, Pong

__all__ = ["each_engine"]

pytestmark = pytest.mark.usefixtures("each_engine")


def shut(lane: UserspaceLane) -> None:
    """Make every later send fail."""
    lane._sock.shutdown(socket.SHUT_WR)


def records(size: int) -> int:
    """Bytes on the wire of ``size`` plain bytes: 22 more for each record (header, type, tag)."""
    return size + 22 * -(-size // RECORD)


@pytest.mark.parametrize("size", [1, SMALL - HEADER_SIZE, SMALL + 1, MAX_DATA])
async def test_small_payload_shares_a_record_with_its_header(
    hosts: Hosts, each_engine: str, size: int
) -> None:
    """The compiled engine makes records of the whole queue, whatever the pieces."""
    apart = each_engine == "python" and size > SMALL
    wire = records(HEADER_SIZE) + records(size) if apart else records(HEADER_SIZE + size)
    async with lane_and_peer(hosts) as (host, lane, peer):
        lane.flush()
        await peer.read_until(lambda: peer.frames)
        before, sent_before = peer.received, lane.bytes_sent
        lane.send(host.session.send(1, bytes(size), 1))
        await peer.read_until(lambda: len(peer.payload) == size)
        assert peer.received - before == wire
        assert lane.bytes_sent - sent_before == HEADER_SIZE + size


async def test_unsent_bytes_stay_queued_in_order(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        sent = fill(host, lane)
        for number in range(5):
            sent += bytes([number]) * 50_000
            lane.send(host.session.send(1, bytes([number]) * 50_000, 1))
        await turns()
        assert not lane.room
        await peer.read_until(lambda: len(peer.payload) == len(sent))
        assert peer.payload == sent
        await until(lambda: lane.room)
        assert "on_writable" in host.calls


async def test_goaway_waits_for_a_full_socket(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_lane, "LINGER", 60.0)
    async with lane_and_peer(hosts) as (host, lane, peer):
        sent = fill(host, lane)
        lane.close(Code.DRAINING, "maintenance")
        await turns()
        assert lane._sock.fileno() >= 0, "it waits for the peer"
        await peer.read_to_end()
        assert peer.payload == sent
        assert [frame.code for frame in peer.frames if isinstance(frame, GoAway)] == [Code.DRAINING]
        assert peer.ending == "close_notify"
        async with asyncio.timeout(60):
            assert await asyncio.get_running_loop().sock_recv(peer.sock, 1) == b""
        peer.close()
        await until(lane.gone.is_set)


async def test_input_after_our_goaway_is_discarded(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        lane.close(Code.DRAINING, "maintenance")
        await peer.send(b"\xff" * 100_000)
        await peer.read_to_end()
        assert peer.ending == "close_notify"
        peer.close()
        await until(lane.gone.is_set)
        assert host.ends == []


class EndlessSocket:
    """A lane's socket that is always readable."""

    def __init__(self, sock: socket.socket, endless: Endless) -> None:
        self._sock, self._endless = sock, endless

    def recv_into(self, _: memoryview) -> int:
        return self._endless.take()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def test_a_peer_that_never_stops_sending_cannot_hold_a_closing_lane(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    async with lane_and_peer(hosts) as (_, lane, peer):
        monkeypatch.setattr(base_lane, "LINGER", 0.05)
        lane.close(Code.DRAINING, "maintenance")
        monkeypatch.setattr(lane, "_sock", EndlessSocket(lane._sock, endless))
        await peer.send(b"x")
        await until(lane.gone.is_set)
    assert endless.left, "the loop was not blocked, and LINGER ended"


@pytest.mark.parametrize("waiting", [False, True], ids=["immediately", "with a full queue"])
async def test_a_failing_send_ends_the_lane_without_raising(hosts: Hosts, waiting: bool) -> None:
    async with lane_and_peer(hosts) as (host, lane, _):
        if waiting:
            fill(host, lane)
        shut(lane)
        if not waiting:
            lane.send(host.session.send(1, b"x", 1))
        assert host.ends == []
        await until(lambda: host.ends)
        await turns()
        assert [type(end) for end in host.ends] == [LaneLost]
        assert str(host.ends[0]).endswith("lost: Broken pipe")


async def test_fin_without_close_notify_is_a_loss(hosts: Hosts) -> None:
    """The last bytes are still processed."""
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            before, last = lane.bytes_received, encode(Open(3, 1 << 40, TARGET))
            await peer.send(last)
            peer.close()
        await until(lambda: host.ends)
        assert lane.bytes_received - before == len(last), "received before the FIN"
        assert host.calls[-3:] == ["on_frame", "flush", "on_end"]
        assert [type(end) for end in host.ends] == [LaneLost]
        assert str(host.ends[0]).endswith("lost: closed without GOAWAY")


async def test_a_reset_is_the_reason_even_if_a_reply_fails_because_of_it(hosts: Hosts) -> None:
    """One read returns both the PING and the reset."""
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            await peer.send(encode(Ping(7)))
            peer.reset()
        await until(lambda: host.ends)
        assert str(host.ends[0]).endswith("lost: Connection reset by peer")


async def test_the_loop_is_not_woken_for_small_pieces_of_a_large_frame(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (_, lane, peer):
        frame = data_header(1, 0, MAX_DATA) + bytes(MAX_DATA)
        await peer.send(frame[: EXPECTED // 2])
        await until(lambda: lane._least == EXPECTED)
        assert lane._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == EXPECTED
        await peer.send(frame[EXPECTED // 2 :])
        await until(lambda: not lane._decoder.payload_left)
        assert lane._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


async def test_a_frame_is_read_to_its_end_although_part_of_it_was_read(hosts: Hosts) -> None:
    """SO_RCVLOWAT must not count the part of a record that was read from the socket already."""
    async with lane_and_peer(hosts) as (_, lane, peer):
        whole = 17 * RECORD
        size = whole + EXPECTED + 4 * KIB
        frame = peer.encrypt(data_header(1, 0, size)) + peer.encrypt(bytes(size))
        torn = records(HEADER_SIZE) + records(whole) + 12 * KIB
        lane._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        with unread_for_now(lane):  # until everything is there, so that it is read in one call
            await peer.send_raw(frame[:torn])
            await until(lambda: unread(lane._sock) == torn)
        await until(lambda: lane._decoder.payload_left == size - whole)
        await peer.send_raw(frame[torn:])
        await until(lambda: not lane._decoder.payload_left)


# Floods of small frames and records.


async def test_a_flood_of_frames_is_processed_in_quanta_and_in_order(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = b"".join(encode(Credit(1, 0, (1 << 40) + number)) for number in range(5 * MOST_FRAMES))
            await peer.send(flood + encode(Open(3, 1 << 40, TARGET), 1))
            await until(lambda: unread(lane._sock) >= len(flood))
            host.calls.clear()
        await until(lambda: 3 in host.opened)
        batches = "".join("," if call == "flush" else "f" for call in host.calls).split(",")
        assert sum(map(len, batches)) == 5 * MOST_FRAMES + 1
        assert max(map(len, batches)) <= MOST_FRAMES


async def test_a_flood_of_pings_is_answered_once_per_quantum(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (_, lane, peer):
        with unread_for_now(lane):
            flood = pings(10 * MOST_FRAMES)
            await peer.send(flood)
            await until(lambda: unread(lane._sock) >= len(flood))
        await peer.read_until(lambda: Pong(1000 + 10 * MOST_FRAMES - 1) in peer.frames)
        assert peer.count(Pong) < 10 * MOST_FRAMES / 7


async def test_tiny_records_are_opened_in_quanta(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = peer.encrypt(pings(200) + encode(Open(3, 1 << 40, TARGET), 1), record=1)
            await peer.send_raw(flood)
            await until(lambda: unread(lane._sock) == len(flood))
            host.calls.clear()
        await until(lambda: 3 in host.opened)
        assert host.calls.count("flush") >= 200 * HEADER_SIZE // MOST_READS


async def test_a_reset_is_reported_after_everything_received_before_it(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = pings(10 * MOST_FRAMES) + encode(Open(3, 1 << 40, TARGET), 1)
            await peer.send(flood)
            peer.reset()
            await until(lambda: unread(lane._sock) >= len(flood))
        await until(lambda: host.ends)
        assert 3 in host.opened
        assert str(host.ends[0]).endswith("lost: Connection reset by peer")


async def test_a_flood_waits_for_other_lanes_and_is_not_lost(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, the loop does not watch the socket; the rest is processed all the same."""
    waits: list[float] = []

    def pause(turn: Turn) -> float:
        waits.append(0.001 if turn._cut else 0.0)
        return waits[-1]

    monkeypatch.setattr(Turn, "pause", pause)
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = pings(10 * MOST_FRAMES) + encode(Open(3, 1 << 40, TARGET), 1)
            await peer.send(flood)
            await until(lambda: unread(lane._sock) >= len(flood))
        await until(lambda: 3 in host.opened)
        assert any(waits)
        await peer.send(encode(Open(5, 1 << 40, TARGET), 2))
        await until(lambda: 5 in host.opened)


async def test_many_tiny_frames_are_sent_in_order(hosts: Hosts) -> None:
    """Headers and tags are larger than their content: more than one batch of ciphertext."""
    async with lane_and_peer(hosts) as (host, lane, peer):
        pings = [Ping(number) for number in range(1 << 40, (1 << 40) + 30_000)]
        for ping in pings:
            lane.send_control(encode(ping))
        lane.send(host.session.send(1, b"after them", 1))
        await peer.read_until(lambda: peer.payload)
        sent = set(pings)
        assert [
            ping for ping in peer.all(Ping) if ping in sent
        ] == pings  # the lane's own PINGs are in between
        assert peer.payload == b"after them"

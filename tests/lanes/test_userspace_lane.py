"""What is particular to the userspace lane: records, buffers, and the socket that it shares with nobody."""

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
from tunnel.lanes.read_turns import MOST_FRAMES, Turn
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
    """Let every send fail from now on."""
    lane._sock.shutdown(socket.SHUT_WR)


def records(size: int) -> int:
    """Bytes on the wire that ``size`` plain bytes take: 22 more for each record (header, type, tag)."""
    return size + 22 * -(-size // RECORD)


@pytest.mark.parametrize("size", [1, SMALL - HEADER_SIZE, SMALL + 1, MAX_DATA])
async def test_small_payload_shares_a_record_with_its_header(
    hosts: Hosts, each_engine: str, size: int
) -> None:
    """The compiled engine makes records of all that is queued, whatever pieces it is in."""
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


async def test_what_the_socket_does_not_take_waits_in_order(hosts: Hosts) -> None:
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


async def test_what_comes_after_our_goaway_is_of_no_use(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        lane.close(Code.DRAINING, "maintenance")
        await peer.send(b"\xff" * 100_000)
        await peer.read_to_end()
        assert peer.ending == "close_notify"
        peer.close()
        await until(lane.gone.is_set)
        assert host.ends == []


class EndlessSocket:
    """A lane's socket, from which something can always be read."""

    def __init__(self, sock: socket.socket, endless: Endless) -> None:
        self._sock, self._endless = sock, endless

    def recv_into(self, _: memoryview) -> int:
        return self._endless.take()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def test_a_peer_that_never_ends_cannot_hold_a_closing_lane(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    async with lane_and_peer(hosts) as (_, lane, peer):
        monkeypatch.setattr(base_lane, "LINGER", 0.05)
        lane.close(Code.DRAINING, "maintenance")
        monkeypatch.setattr(lane, "_sock", EndlessSocket(lane._sock, endless))
        await peer.send(b"x")
        await until(lane.gone.is_set)
    assert endless.left, "the loop had its turn, and the time was over"


@pytest.mark.parametrize("waiting", [False, True], ids=["at once", "while bytes wait"])
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


async def test_a_cut_is_no_end(hosts: Hosts) -> None:
    """FIN without close_notify: the last bytes still count, and the lane is lost."""
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            before, last = lane.bytes_received, encode(Open(3, 1 << 40, TARGET))
            await peer.send(last)
            peer.close()
        await until(lambda: host.ends)
        assert lane.bytes_received - before == len(last), "what came before the cut"
        assert host.calls[-3:] == ["on_frame", "on_batch_end", "on_end"]
        assert [type(end) for end in host.ends] == [LaneLost]
        assert str(host.ends[0]).endswith("lost: it was closed without GOAWAY")


async def test_a_reset_is_named_though_an_answer_fails_because_of_it(hosts: Hosts) -> None:
    """Both come with one read: the question, and the end of who asked it."""
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            await peer.send(encode(Ping(7)))
            peer.reset()
        await until(lambda: host.ends)
        assert str(host.ends[0]).endswith("lost: Connection reset by peer")


async def test_the_loop_is_told_of_no_crumbs_inside_a_large_frame(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (_, lane, peer):
        frame = data_header(1, 0, MAX_DATA) + bytes(MAX_DATA)
        await peer.send(frame[: EXPECTED // 2])
        await until(lambda: lane._least == EXPECTED)
        assert lane._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == EXPECTED
        await peer.send(frame[EXPECTED // 2 :])
        await until(lambda: not lane._decoder.payload_left)
        assert lane._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


async def test_a_frame_is_read_to_its_end_though_a_part_of_it_is_taken(hosts: Hosts) -> None:
    """The beginning of a record that is out of the socket must not be waited for there."""
    async with lane_and_peer(hosts) as (_, lane, peer):
        whole = 17 * RECORD
        size = whole + EXPECTED + 4 * KIB
        frame = peer.encrypt(data_header(1, 0, size)) + peer.encrypt(bytes(size))
        torn = records(HEADER_SIZE) + records(whole) + 12 * KIB
        lane._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        with unread_for_now(lane):  # until all of that is there: it is to be read at once
            await peer.send_raw(frame[:torn])
            await until(lambda: unread(lane._sock) == torn)
        await until(lambda: lane._decoder.payload_left == size - whole)
        await peer.send_raw(frame[torn:])
        await until(lambda: not lane._decoder.payload_left)


# Many small things at once.


async def test_a_flood_of_frames_is_taken_in_turns_and_in_order(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = b"".join(encode(Credit(1, 0, (1 << 40) + number)) for number in range(5 * MOST_FRAMES))
            await peer.send(flood + encode(Open(3, 1 << 40, TARGET), 1))
            await until(lambda: unread(lane._sock) >= len(flood))
            host.calls.clear()
        await until(lambda: 3 in host.opened)
        batches = "".join("," if call == "on_batch_end" else "f" for call in host.calls).split(",")
        assert sum(map(len, batches)) == 5 * MOST_FRAMES + 1
        assert max(map(len, batches)) <= MOST_FRAMES


async def test_a_flood_of_pings_is_answered_once_a_turn(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (_, lane, peer):
        with unread_for_now(lane):
            flood = pings(10 * MOST_FRAMES)
            await peer.send(flood)
            await until(lambda: unread(lane._sock) >= len(flood))
        await peer.read_until(lambda: Pong(1000 + 10 * MOST_FRAMES - 1) in peer.frames)
        assert peer.count(Pong) < 10 * MOST_FRAMES / 7


async def test_tiny_records_are_opened_in_turns(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = peer.encrypt(pings(200) + encode(Open(3, 1 << 40, TARGET), 1), record=1)
            await peer.send_raw(flood)
            await until(lambda: unread(lane._sock) == len(flood))
            host.calls.clear()
        await until(lambda: 3 in host.opened)
        assert host.calls.count("on_batch_end") >= 200 * HEADER_SIZE // MOST_READS


async def test_a_cut_waits_until_all_that_came_before_it_is_taken(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        with unread_for_now(lane):
            flood = pings(10 * MOST_FRAMES) + encode(Open(3, 1 << 40, TARGET), 1)
            await peer.send(flood)
            peer.reset()
            await until(lambda: unread(lane._sock) >= len(flood))
        await until(lambda: host.ends)
        assert 3 in host.opened
        assert str(host.ends[0]).endswith("lost: Connection reset by peer")


async def test_beside_others_a_flood_waits_and_is_not_lost(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, the loop is not told that the socket is readable; what is left comes all the same."""
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


async def test_many_crumbs_leave_in_order(hosts: Hosts) -> None:
    """Their headers and tags are more than they are: more than one batch of ciphertext."""
    async with lane_and_peer(hosts) as (host, lane, peer):
        pings = [Ping(number) for number in range(1 << 40, (1 << 40) + 30_000)]
        for ping in pings:
            lane.send_control(encode(ping))
        lane.send(host.session.send(1, b"behind them", 1))
        await peer.read_until(lambda: peer.payload)
        sent = set(pings)
        assert [ping for ping in peer.all(Ping) if ping in sent] == pings  # the lane asks as well, in between
        assert peer.payload == b"behind them"

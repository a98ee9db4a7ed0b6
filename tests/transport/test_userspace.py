"""What is particular to the userspace lane: records, buffers, and the socket that it shares with nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.driver import TARGET, Host
from tests.support.lanes import LIMITS, Hosts
from tests.support.network import TlsPeer, tcp_pair
from tests.support.waiting import turns, unexpected, until
from tunnel.errors import LaneLost, RefusedError
from tunnel.transport import userspace
from tunnel.transport.handshake import handshake
from tunnel.transport.userspace import RECORD, SMALL, UserspaceLane
from tunnel.wire.codes import HEADER_SIZE, MAX_DATA, Code
from tunnel.wire.frames import GoAway, Open, Welcome, encode
from tunnel.wire.negotiation import hello
from tunnel.wire.states import LaneState


class Grudging(socket.socket):
    """A socket whose kernel takes only so much: ``allowance`` sends, and everything once that is None."""

    allowance: int | None = None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]  # no more is used
        if self.allowance is not None:
            if self.allowance == 0:
                raise BlockingIOError
            self.allowance -= 1
        return super().send(data, flags)


@asynccontextmanager
async def lane_and_peer(hosts: Hosts) -> AsyncIterator[tuple[Host, Grudging, TlsPeer]]:
    """A host with a session over a userspace lane, its socket, and a raw peer that dialed it."""
    dialing, accepting = tcp_pair()
    ours = Grudging(fileno=accepting.detach())
    ours.setblocking(False)
    with ours, dialing, unexpected() as surprises:
        end, peer = await asyncio.gather(
            handshake(ours, hosts.b, dialing=False), TlsPeer.connect(dialing, hosts.a, dialing=True)
        )
        host = Host(initiator=False)
        host.own(UserspaceLane(ours, end, "hosta", LaneState.AWAIT_FIRST))
        try:
            await peer.send(encode(hello(b"R" * 16, b"I" * 16, LIMITS)) + encode(Open(1, 1 << 40, TARGET)))
            await peer.read_until(lambda: peer.count(Welcome))
            await until(lambda: host.opened)
            yield host, ours, peer
        finally:
            host.lane.abort()
        assert not surprises, "\n".join(surprises)


def records(size: int) -> int:
    """Bytes on the wire that ``size`` plain bytes take: 22 more for each record (header, type, tag)."""
    return size + 22 * -(-size // RECORD)


@pytest.mark.parametrize(
    ("size", "wire"),
    [
        (1, records(HEADER_SIZE + 1)),
        (SMALL - HEADER_SIZE, records(SMALL)),
        (SMALL + 1, records(HEADER_SIZE) + records(SMALL + 1)),
        (MAX_DATA, records(HEADER_SIZE) + records(MAX_DATA)),
    ],
)
async def test_small_payload_shares_a_record_with_its_header(hosts: Hosts, size: int, wire: int) -> None:
    async with lane_and_peer(hosts) as (host, _, peer):
        host.lane.flush()
        await peer.read_until(lambda: peer.frames)
        before = host.lane.bytes_sent
        host.lane.send(host.session.send(1, bytes(size), 1))
        await peer.read_until(lambda: len(peer.payload) == size)
        assert host.lane.bytes_sent - before == wire


async def test_what_the_socket_does_not_take_waits_in_order(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, sock, peer):
        sock.allowance = 0
        for number in range(5):
            host.lane.send(host.session.send(1, bytes([number]) * 50_000, 1))
        assert not host.lane.room
        await turns()
        sock.allowance = None
        await peer.read_until(lambda: len(peer.payload) == 250_000)
        assert peer.payload == b"".join(bytes([number]) * 50_000 for number in range(5))
        await until(lambda: host.lane.room)
        assert "on_writable" in host.calls


async def test_goaway_survives_a_socket_that_is_just_full(hosts: Hosts) -> None:
    """It leaves together with close_notify: when the second of them met a full socket, both could be lost."""
    async with lane_and_peer(hosts) as (host, sock, peer):
        sock.allowance = 1
        host.lane.close(Code.DRAINING, "maintenance")
        sock.allowance = 0
        assert sock.fileno() >= 0, "it waits for the peer"
        await peer.read_to_end()
        assert [frame.code for frame in peer.frames if isinstance(frame, GoAway)] == [Code.DRAINING]
        assert peer.ending == "close_notify"


async def test_goaway_waits_for_a_full_socket(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userspace, "LINGER", 60.0)
    async with lane_and_peer(hosts) as (host, sock, peer):
        sock.allowance = 0
        host.lane.send(host.session.send(1, bytes(100_000), 1))
        host.lane.close(Code.DRAINING, "maintenance")
        await turns()
        sock.allowance = None
        await peer.read_to_end()
        assert len(peer.payload) == 100_000
        assert peer.count(GoAway) == 1
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(peer.sock, 1) == b""


async def test_what_the_peer_said_is_heard_though_nothing_can_be_sent(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, sock, peer):
        await peer.send(encode(GoAway(Code.DRAINING, "maintenance")))
        sock.shutdown(socket.SHUT_WR)
        host.lane.send(host.session.send(1, b"x", 1))
        assert not host.lane.room
        await until(lambda: host.ends)
        assert isinstance(host.ends[0], RefusedError)


@pytest.mark.parametrize("waiting", [False, True], ids=["at once", "while bytes wait"])
async def test_a_failing_send_ends_the_lane_without_raising(hosts: Hosts, waiting: bool) -> None:
    async with lane_and_peer(hosts) as (host, sock, _):
        if waiting:
            sock.allowance = 0
            host.lane.send(host.session.send(1, bytes(100_000), 1))
        sock.shutdown(socket.SHUT_WR)
        sock.allowance = None
        if not waiting:
            host.lane.send(host.session.send(1, b"x", 1))
        assert host.ends == []
        await until(lambda: host.ends)
        await turns()
        assert [type(end) for end in host.ends] == [LaneLost]


async def test_lanes_of_a_thread_share_their_large_buffers(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (one, *_), lane_and_peer(hosts) as (other, *_):
        assert isinstance(one.lane, UserspaceLane)
        assert isinstance(other.lane, UserspaceLane)
        assert one.lane._ciphertext is other.lane._ciphertext
        assert one.lane._plaintext is other.lane._plaintext

"""A userspace lane with a session, and a peer that can send anything."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.support.compiled_engine import compiled_engine
from tests.support.driver import TARGET, Host
from tests.support.lanes import LIMITS, Hosts
from tests.support.network import TlsPeer, tcp_pair
from tests.support.records import RecordPeer
from tests.support.waiting import unexpected, until
from tunnel.lanes.userspace_lane import UserspaceLane
from tunnel.records.key_schedule import Keys
from tunnel.records.tls_messages import DATA
from tunnel.tls.handshake import handshake
from tunnel.wire.codec import encode
from tunnel.wire.frames import Open, Ping, Welcome
from tunnel.wire.negotiation import hello
from tunnel.wire.states import LaneState

ENGINES = {"python": None, "compiled": compiled_engine()}

_engine: list[str] = ["python"]


@pytest.fixture(params=ENGINES)
def each_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Make ``lane_and_peer`` and ``lane_and_records`` use each engine; the value is its name."""
    _engine.append(request.param)
    yield request.param
    _engine.pop()


def _lane(sock: socket.socket, keys: Keys, peer: str) -> UserspaceLane:
    return UserspaceLane(sock, keys, peer, LaneState.AWAIT_FIRST, provider=ENGINES[_engine[-1]])


@asynccontextmanager
async def lane_and_peer(hosts: Hosts) -> AsyncIterator[tuple[Host, UserspaceLane, TlsPeer]]:
    """Connect a host with a session over a userspace lane to a raw peer that dials."""
    dialing, accepting = tcp_pair()
    with accepting, dialing, unexpected() as surprises:
        (keys, chains), peer = await asyncio.gather(
            handshake(accepting, hosts.b, ("hosta",), dialing=False),
            TlsPeer.connect(dialing, hosts.a, dialing=True),
        )
        host = Host(initiator=False)
        lane = _lane(accepting, keys, chains.peer)
        host.own(lane)
        try:
            await peer.send(encode(hello(b"R" * 16, b"I" * 16, LIMITS)) + encode(Open(1, 1 << 40, TARGET)))
            await peer.read_until(lambda: peer.count(Welcome))
            await until(lambda: host.opened)
            yield host, lane, peer
        finally:
            lane.abort()
        assert not surprises, "\n".join(surprises)


@asynccontextmanager
async def lane_and_records(hosts: Hosts) -> AsyncIterator[tuple[Host, UserspaceLane, RecordPeer]]:
    """Connect a host with a session to a peer that builds its own TLS records."""
    dialing, accepting = tcp_pair()
    with accepting, dialing, unexpected() as surprises:
        (keys, chains), peer = await asyncio.gather(
            handshake(accepting, hosts.b, ("hosta",), dialing=False),
            RecordPeer.connect(dialing, hosts.a.files),
        )
        host = Host(initiator=False)
        lane = _lane(accepting, keys, chains.peer)
        host.own(lane)
        try:
            await peer.send(peer.sealer.record(DATA, encode(hello(b"R" * 16, b"I" * 16, LIMITS))))
            await until(lambda: host.ready)
            yield host, lane, peer
        finally:
            lane.abort()
        assert not surprises, "\n".join(surprises)


def fill(host: Host, lane: UserspaceLane) -> bytes:
    """Send until the lane is full; return all sent data."""
    sent = b""
    while lane.room:
        payload = bytes([len(sent) % 251]) * 50_000
        lane.send(host.session.send(1, payload, 1))
        sent += payload
    return sent


def unread(sock: socket.socket) -> int:
    """Return the number of unread bytes in a socket."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def pings(count: int, first: int = 1000) -> bytes:
    """Return ``count`` PINGs with different tokens."""
    return b"".join(encode(Ping(number)) for number in range(first, first + count))

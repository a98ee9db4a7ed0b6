"""The peer port: which connections reach a link, and the cost of unauthenticated ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.links import ending, make_link
from tests.support.network import TlsPeer
from tests.support.pipelane import pipe
from tests.support.pki import Pki
from tests.support.waiting import turns, unexpected, until
from tunnel.net.listener import Listener
from tunnel.net.sockets import reset
from tunnel.net.token_bucket import Rate
from tunnel.relay import admission
from tunnel.relay import lane_acceptor as module
from tunnel.relay.admission import SourceClass, Table
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link, LinkState
from tunnel.relay.sources import PeerSources
from tunnel.relay.timeouts import Timeouts
from tunnel.tls.contexts import TlsContexts, load
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, GoAway, Limits, Open, Ping, Pong, Resume, Welcome
from tunnel.wire.negotiation import hello

OFFER = hello(b"S" * 16, b"I" * 16, Limits(16, 16))


@dataclass
class Port:
    """The lane acceptor of host b, and certificates to connect with."""

    reception: LaneAcceptor
    links: dict[str, Link]
    address: tuple[str, int]
    contexts: dict[str, TlsContexts]
    callers: list[socket.socket] = field(default_factory=list)

    async def connect(self) -> socket.socket:
        sock = socket.create_connection(self.address)  # immediate: the backlog accepts it
        sock.setblocking(False)
        self.callers.append(sock)
        return sock

    async def knock(self, name: str = "hosta") -> TlsPeer:
        return await TlsPeer.connect(await self.connect(), self.contexts[name], dialing=True)


@pytest.fixture
async def port(tmp: Path) -> AsyncIterator[Port]:
    """A lane acceptor with the peers hosta and hostc."""
    pki = Pki(tmp)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    contexts = {name: load(pki.host(name)) for name in ("hosta", "hostb", "hostc", "stranger")}
    contexts["shared"] = load(pki.host("shared", dns=["hosta", "hostc"]))
    links = {name: make_link("hostb", name) for name in ("hosta", "hostc")}
    reception = LaneAcceptor("127.0.0.1", address[1], lambda: contexts["hostb"], None, links)
    with unexpected() as faults:
        port = Port(reception, links, address, contexts)
        yield port
        await reception.close()
    for caller in port.callers:
        caller.close()
    for link in links.values():
        link.end(Code.NONE, "the test is over")
    assert not faults


async def test_listener_is_informed_of_refused_connections(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that refusing them takes only a small part of the loop's time."""
    told: list[bool] = []
    monkeypatch.setattr(Listener, "refused", lambda self: told.append(True))
    monkeypatch.setattr(port.reception._admission, "admit", lambda *_: (None, []))
    for _ in range(3):
        await port.connect()
    await until(lambda: port.reception.rejected == 3, "for all to be refused")
    assert len(told) == 3


async def answer(peer: TlsPeer, *frames: Frame) -> GoAway:
    """Send frames, and return the GOAWAY that is received."""
    await peer.send(b"".join(encode(frame) for frame in frames))
    await peer.read_to_end()
    [goaway] = peer.all(GoAway)
    assert isinstance(goaway, GoAway)
    return goaway


async def test_peer_reaches_its_own_link(port: Port) -> None:
    peer = await port.knock("hostc")
    await peer.send(encode(OFFER))
    await peer.read_until(lambda: peer.all(Welcome))
    assert port.links["hostc"].state is LinkState.UP
    assert port.links["hosta"].state is LinkState.DOWN
    assert port.reception.rejected == 0


async def test_stranger_reaches_nothing(port: Port) -> None:
    peer = await port.knock("stranger")
    await peer.send(encode(OFFER))
    with pytest.raises(ssl.SSLError, match="access denied"):
        await peer.read_to_end()
    assert peer.frames == []
    assert port.reception.rejected == 1
    assert all(link.session is None for link in port.links.values())


async def test_unexpected_error_costs_only_the_connection(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd() -> TlsContexts:
        raise ValueError("what is this?")

    monkeypatch.setattr(port.reception, "_contexts", odd)
    stranger = await port.connect()
    await until(lambda: port.reception.rejected == 1, "for the rejection")
    assert await ending(stranger) in {"close", "reset"}


async def test_certificate_of_two_peers_is_reported_on_both_links(port: Port) -> None:
    peer = await port.knock("shared")
    with pytest.raises(ssl.SSLError, match="access denied"):
        await peer.read_to_end()
    for link in port.links.values():
        [incident] = link.incidents
        assert incident.kind == "lane rejected"
        assert "names more than one configured peer: hosta, hostc; issue one certificate" in incident.reason


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (Ping(1), Code.HANDSHAKE),
        (Open(1, 1, "tcp:127.0.0.1:1"), Code.HANDSHAKE),
        (Resume(b"?" * 16, 2, 1, 0, 1, ()), Code.SESSION_UNKNOWN),
    ],
    ids=["PING", "OPEN", "RESUME"],
)
async def test_wrong_first_frame_is_answered_with_goaway(port: Port, first: Frame, code: Code) -> None:
    goaway = await answer(await port.knock(), first)
    assert goaway.code is code
    assert port.links["hosta"].incidents[-1].kind == "lane rejected"
    assert port.links["hosta"].session is None


async def test_frames_after_hello_go_to_the_link(port: Port) -> None:
    peer = await port.knock()
    goaway = await answer(peer, OFFER, OFFER)
    assert peer.all(Welcome)
    assert goaway.code is Code.HANDSHAKE
    assert port.links["hosta"].incidents[-1].kind == "link down"


async def test_peer_that_sends_goaway_first(port: Port) -> None:
    peer = await port.knock()
    await peer.send(encode(GoAway(Code.NONE, "never mind")))
    await until(lambda: port.links["hosta"].incidents, "for the end")
    assert port.links["hosta"].incidents[-1].kind == "lane rejected"


async def test_silent_peer_is_closed(port: Port) -> None:
    port.reception.timeouts = Timeouts(first_frame=0.2)
    peer = await port.knock()
    await peer.read_to_end()
    [goaway] = peer.all(GoAway)
    assert isinstance(goaway, GoAway)
    assert (goaway.code, goaway.reason) == (Code.HANDSHAKE, "no first frame received")
    assert port.links["hosta"].incidents[-1].reason.endswith("sent no first frame")


async def test_first_frame_that_comes_with_the_timeout_counts() -> None:
    """The timer fires before the waiting task sees the frame; the link owns the lane nevertheless."""
    link = make_link("hostb", "hosta")
    near, far = pipe("hosta", "hostb")
    newcomer = module.IncomingLane(link, Timeouts(first_frame=0))
    far.start(newcomer)
    waiting = asyncio.create_task(newcomer.outcome(far))
    await asyncio.sleep(0)
    newcomer.on_frame(far, OFFER, 0)
    await asyncio.wait_for(waiting, 5)
    assert link.lanes == {1: far}
    assert not link.incidents
    link.end(Code.NONE, "the test is over")
    near.abort()


async def test_peer_that_sent_its_frame_in_time_is_not_closed_later(port: Port) -> None:
    port.reception.timeouts = Timeouts(first_frame=0.5)
    peer = await port.knock()
    await peer.send(encode(OFFER))
    await peer.read_until(lambda: peer.all(Welcome))
    await until(lambda: not port.reception._admission, "for it to be through")
    await peer.send(encode(Ping(7)))
    await peer.read_until(lambda: Pong(7) in peer.frames)
    assert port.links["hosta"].state is LinkState.UP


async def test_peer_that_disconnects_before_its_first_frame(port: Port) -> None:
    peer = await port.knock()
    await peer.read_until(lambda: peer.received)  # session tickets: the handshake is done there as well
    reset(peer.sock)
    await until(lambda: port.links["hosta"].incidents, "for the end")
    assert port.links["hosta"].incidents[-1].kind == "lane rejected"


def half_open(port: Port) -> int:
    return len(port.reception._admission)


async def end_of(sock: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 60)


async def test_a_full_table_makes_room_for_a_peer(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    port.reception._admission._strangers = Table(4)
    idle = [await port.connect() for _ in range(4)]
    await until(lambda: half_open(port) == 4, "for them to be accepted")
    peer = await port.knock()
    await peer.send(encode(OFFER))
    await peer.read_until(lambda: peer.all(Welcome))
    assert await end_of(idle[0]) == b"", "the oldest was dropped"
    assert port.reception.rejected == 1
    for sock in idle:
        sock.close()
    await until(lambda: not half_open(port), "for them to be forgotten")


async def test_connection_above_the_rate_is_reset_unread(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Rate(3, 0)
    monkeypatch.setattr(admission, "_RATES", dict.fromkeys(SourceClass, few))
    for _ in range(3):
        (await port.connect()).close()
    await until(lambda: port.reception.rejected == 3)
    with pytest.raises(ConnectionResetError):
        await end_of(await port.connect())
    assert port.reception.rejected == 4


async def test_peer_without_a_lane_is_expected_at_its_configured_or_last_address(port: Port) -> None:
    reception = port.reception
    reception._sources = PeerSources({"hosta": "192.0.2.1", "hostc": "192.0.2.3"})

    def standings() -> list[SourceClass]:
        sources = ("192.0.2.1", "127.0.0.1", "192.0.2.3")
        return [reception._standing(source, time.monotonic()) for source in sources]

    assert standings() == [SourceClass.EXPECTED, SourceClass.STRANGER, SourceClass.EXPECTED]
    peer = await port.knock()
    await peer.send(encode(OFFER))
    await peer.read_until(lambda: peer.all(Welcome))
    assert standings() == [SourceClass.KNOWN, SourceClass.KNOWN, SourceClass.BESIDE], (
        "to protect hosta's streams"
    )
    peer.close()
    await until(lambda: port.links["hosta"].state is not LinkState.UP)
    assert standings() == [SourceClass.EXPECTED] * 3


async def test_excess_lanes_of_one_peer_are_aborted_and_those_of_its_link_are_not(port: Port) -> None:
    """Each was refused, and lingers until the peer has read GOAWAY."""
    linked = await port.knock()
    await linked.send(encode(OFFER))
    await linked.read_until(lambda: linked.all(Welcome))
    lanes = port.reception._lanes["hosta"]
    for _ in range(2 * module.MOST_LOOSE):
        peer = await port.knock()
        await peer.send(encode(Ping(1)))
    await until(lambda: half_open(port) == 0)
    await until(lambda: len(lanes) == 1 + module.MOST_LOOSE)
    assert port.links["hosta"].holds(lanes[0])
    await linked.send(encode(Ping(7)))
    await linked.read_until(lambda: Pong(7) in linked.frames)
    for caller in port.callers[1:]:
        caller.close()
    await until(lambda: len(lanes) == 1, "for those that are gone not to count")


async def test_closing_drops_lanes_that_no_link_owns(port: Port) -> None:
    idle = await port.connect()
    peer = await port.knock()
    await until(lambda: half_open(port) == 1 and port.reception._lanes["hosta"], "for both")
    await turns(50)  # its handshake may be done here, and not yet there
    await asyncio.wait_for(port.reception.close(), 5)
    await peer.read_to_end()
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(idle, 1), 60) == b""
    with pytest.raises(ConnectionRefusedError):
        await port.connect()


async def test_link_outlives_the_acceptor(port: Port) -> None:
    peer = await port.knock()
    await peer.send(encode(OFFER))
    await peer.read_until(lambda: peer.all(Welcome))
    await port.reception.close()
    assert port.links["hosta"].state is LinkState.UP


async def accepted(port: Port) -> socket.socket:
    """Return the accepted end of a connection that was just accepted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port.callers.append(socket.create_connection(server.getsockname()))
        sock, _ = server.accept()
    sock.setblocking(False)
    port.reception._accepted(sock)
    return sock


async def test_connection_accepted_just_before_close_is_closed(port: Port) -> None:
    sock = await accepted(port)
    await port.reception.close()
    assert sock.fileno() == -1


async def test_connection_dropped_in_the_iteration_of_its_accept_is_closed(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await accepted(port)
    [place] = port.reception._unproven
    monkeypatch.setattr(port.reception._admission, "admit", lambda *_: (None, [place]))
    await accepted(port)
    await until(lambda: first.fileno() == -1, "for the first to be closed")

"""The end of a lane of every kind: GOAWAY, loss, violations, timeouts. Second half of the conformance suite.

See ``test_lane``. Nothing here depends on how a lane encrypts.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from typing import NamedTuple

import pytest

from tests.support.driver import TARGET, Host, content
from tests.support.lanes import (
    EMULATED,
    LIMITS,
    Hosts,
    Kinds,
    against_raw,
    each_kind,
    each_pairing,
    each_role,
    fileno,
    joined,
    only_end,
    stuffed,
)
from tests.support.network import TlsPeer
from tests.support.waiting import turns, until
from tunnel.errors import LaneLost, MisuseError, ProtocolError, RefusedError
from tunnel.lanes import base_lane
from tunnel.units import MIB
from tunnel.wire import keepalive
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import MAX_DATA, Code
from tunnel.wire.frames import Credit, Frame, GoAway, Open, Ping, Pong
from tunnel.wire.keepalive import Keepalive
from tunnel.wire.negotiation import hello, welcome

STEP = MIB // 4 if EMULATED else MIB  # emulated, encryption is about 70 times slower

# GOAWAY or loss.


@each_pairing
async def test_goaway_is_a_refusal_with_its_code(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        pair.a.lane.close(Code.NONE, "the host stops")
        ended = await only_end(pair.b)
        assert isinstance(ended, RefusedError)
        assert ended.code is Code.NONE
        assert "the host stops" in str(ended)
        await until(lambda: fileno(pair.a) == fileno(pair.b) == -1, "for both sockets to close")
        assert pair.a.ends == []


@each_kind
@pytest.mark.parametrize("heard", [False, True], ids=["before our reply", "after our reply"])
async def test_goaway_of_a_peer_that_may_lack_our_reply_is_a_loss(
    hosts: Hosts, kind: str, heard: bool
) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await peer.send((encode(Ping(1)) if heard else b"") + encode(GoAway(Code.TIMEOUT, "no answer")))
        assert isinstance(await only_end(host), RefusedError if heard else LaneLost)


@each_kind
async def test_goaway_of_a_peer_that_replied_is_a_refusal(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=True) as (host, peer):
        await peer.send(encode(GoAway(Code.NONE, "the host stops")))
        assert isinstance(await only_end(host), RefusedError)


@each_kind
@each_role
async def test_goaway_is_sent_after_a_frame_so_that_it_ends_the_session(
    hosts: Hosts, kind: str, dialing: bool
) -> None:
    """However early: the peer attaches the lane with the first frame that it receives before GOAWAY."""
    async with against_raw(hosts, kind, dialing=dialing) as (host, peer):
        host.lane.close(Code.NONE, "the host stops")
        await peer.read_to_end()
        types = [type(frame) for frame in peer.frames]
        assert types[-1] is GoAway
        assert Ping in types


@each_kind
async def test_an_aborted_lane_is_reset_without_goaway(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await stuffed(host, peer)
        host.lane.abort()
        await peer.read_to_end()
        assert peer.ending == "reset", "unsent frames must not arrive later"
        assert peer.count(GoAway) == 0


@each_pairing
@pytest.mark.parametrize("attempt", range(5))
async def test_goaway_arrives_through_bulk_in_both_directions(
    hosts: Hosts, kinds: Kinds, attempt: int
) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, 1 << 40)
        pair.b.send(number, 1 << 40)
        await until(lambda: pair.b.sinks[number].received > (attempt + 1) * STEP)
        pair.a.lane.close(Code.INTERNAL, "enough")
        sent = pair.a.sources[number].sent
        ended = await only_end(pair.b)
        assert isinstance(ended, RefusedError)
        assert ended.code is Code.INTERNAL
        assert pair.b.sinks[number].received == sent, "the queue is sent before GOAWAY"


@each_pairing
async def test_both_may_close_simultaneously(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        pair.a.lane.close(Code.NONE, "")
        pair.b.lane.close(Code.NONE, "")
        await until(lambda: fileno(pair.a) == fileno(pair.b) == -1, "for both sockets to close")
        assert pair.a.ends == pair.b.ends == []


@each_pairing
async def test_close_and_abort_are_idempotent(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        for _ in range(2):
            pair.a.lane.close(Code.NONE, "")
        for _ in range(2):
            pair.a.lane.abort()
        pair.a.lane.close(Code.NONE, "")
        await until(lambda: fileno(pair.a) == -1, "for the lane to close its socket")


@each_pairing
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_no_handler_is_called_after_we_ended_the_lane(hosts: Hosts, kinds: Kinds, way: str) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, 1 << 40)
        pair.b.send(number, 1 << 40)
        await until(lambda: pair.a.sinks[number].received > MIB)
        if way == "close":
            pair.a.lane.close(Code.NONE, "")
        else:
            pair.a.lane.abort()
        pair.a.calls.clear()
        await until(lambda: fileno(pair.a) == -1 and pair.b.ends)
        await turns()
        assert pair.a.calls == []
        assert not pair.a.lane.room


@each_pairing
async def test_an_ended_lane_accepts_frames_and_drops_them(hosts: Hosts, kinds: Kinds) -> None:
    """Its owner may be sending when it ends."""
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.session.ready(number)
        frames = [pair.a.session.send(number, b"late" * size, 1) for size in (1, 10_000)]
        pair.a.lane.close(Code.NONE, "")
        for _ in range(2):
            pair.a.lane.send_control(encode(Ping(1)))
            for frame in frames:
                pair.a.lane.send(frame)
            pair.a.lane.flush()
            pair.a.lane.abort()
        assert isinstance(await only_end(pair.b), RefusedError)
        assert pair.b.sinks[number].received == 0


@each_kind
async def test_a_peer_that_does_not_read_cannot_hold_a_closing_lane(
    hosts: Hosts, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await stuffed(host, peer)
        monkeypatch.setattr(base_lane, "LINGER", 0.2)
        host.lane.close(Code.NONE, "")
        assert fileno(host) >= 0
        await until(lambda: fileno(host) == -1, "for LINGER to end", within=5)
        assert host.ends == []


@each_kind
@each_role
@pytest.mark.parametrize("way", ["reset", "fin", "close_notify"])
async def test_an_end_without_goaway_is_a_loss(hosts: Hosts, kind: str, dialing: bool, way: str) -> None:
    async with against_raw(hosts, kind, dialing=dialing) as (host, peer):
        if way == "close_notify":
            await peer.say_close_notify()
        elif way == "reset":
            peer.reset()
        else:
            peer.close()
        assert isinstance(await only_end(host), LaneLost)


@each_kind
async def test_a_loss_is_detected_while_sending(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await stuffed(host, peer)
        peer.reset()
        assert isinstance(await only_end(host), LaneLost)


@each_kind
async def test_a_reset_is_detected_immediately_however_much_is_unread(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await peer.send(encode(Open(1, 4096, TARGET)))
        await until(lambda: host.opened == {1})
        await peer.send(data_header(1, 0, MAX_DATA) + content(1, 0, MAX_DATA, initiator=True))
        peer.reset()
        await until(lambda: host.ends, "for the lane to end", within=10)
        assert isinstance(await only_end(host), LaneLost)


@each_kind
async def test_frames_received_before_a_loss_are_processed(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await peer.send(encode(Open(1, 4096, TARGET)) + encode(Open(3, 4096, TARGET), 1)[:-1])
        await peer.say_close_notify()
        assert isinstance(await only_end(host), LaneLost)
        assert host.opened == {1}


@each_pairing
async def test_a_connection_cut_anywhere_is_a_loss_on_both_sides(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds, cable=True) as pair:
        assert pair.cable is not None
        (number,) = await pair.opened()
        pair.a.send(number, 1 << 40)
        await until(lambda: pair.b.sinks[number].received > MIB)
        await pair.cable.cut()
        for host in (pair.a, pair.b):
            assert isinstance(await only_end(host), LaneLost)


@each_pairing
async def test_a_changed_bit_ends_the_lane_and_delivers_nothing_wrong(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds, cable=True) as pair:
        assert pair.cable is not None
        (number,) = await pair.opened()
        pair.cable.flip_at = pair.cable.passed[0] + 3 * MIB + 4321
        pair.a.send(number, 1 << 40)
        assert isinstance(await only_end(pair.b), LaneLost)
        assert 2 * MIB < pair.b.sinks[number].received < 3 * MIB + 4321
        await until(lambda: pair.a.ends)
        assert isinstance(await only_end(pair.a), LaneLost)


# Protocol violations of the peer.


def raw_header(kind: int, stream: int, length: int, flags: int = 0) -> bytes:
    """Return a header with fields that ``encode`` would never write."""
    return struct.pack("!BBHIIQ", kind, flags, 0, stream, length, 0)


class Crime(NamedTuple):
    """A protocol violation: bytes that the peer sends, and the code of our GOAWAY."""

    raw: bytes
    code: Code


CRIMES = {
    "garbage": Crime(b"GET / HTTP/1.1\r\nHost: hostb\r\n\r\n", Code.FRAME_TYPE),
    "unknown type": Crime(raw_header(99, 0, 0), Code.FRAME_TYPE),
    "flags": Crime(raw_header(6, 0, 0, flags=1), Code.PROTOCOL),
    "too much data": Crime(raw_header(19, 1, MAX_DATA + 1), Code.FRAME_SIZE),
    "4 GiB of data": Crime(raw_header(19, 1, 0xFFFF_FFFF), Code.FRAME_SIZE),
    "4 GiB of target": Crime(raw_header(16, 1, 0xFFFF_FFFF), Code.FRAME_SIZE),
    "second HELLO": Crime(encode(hello(b"R" * 16, b"I" * 16, LIMITS)), Code.HANDSHAKE),
    "WELCOME again": Crime(encode(welcome(hello(b"R" * 16, b"I" * 16, LIMITS), b"", LIMITS)), Code.HANDSHAKE),
    "data of no stream": Crime(data_header(77, 0, 4) + b"data", Code.STREAM_STATE),
    "credit for nothing": Crime(encode(Credit(0, 1 << 40, 1 << 40)), Code.FLOW_CONTROL),
    "broken text": Crime(raw_header(16, 1, 10) + b"\0" * 8 + b"\xff\xfe", Code.PROTOCOL),
}
FIRST_CRIMES = {
    "data before HELLO": Crime(data_header(1, 0, 4) + b"data", Code.HANDSHAKE),
    "OPEN before HELLO": Crime(encode(Open(1, 4096, TARGET)), Code.HANDSHAKE),
    "PING before HELLO": Crime(encode(Ping(1)), Code.HANDSHAKE),
    "garbage": Crime(b"\0" * 20, Code.FRAME_TYPE),
}


async def convicted(host: Host, peer: TlsPeer, code: Code) -> None:
    """Check that our handler gets a ProtocolError and the peer GOAWAY."""
    await peer.read_to_end()
    assert [frame.code for frame in peer.frames if isinstance(frame, GoAway)] == [code]
    assert peer.ending == "close_notify"
    ended = await only_end(host)
    assert isinstance(ended, ProtocolError)
    assert ended.code is code


@each_kind
@each_role
@pytest.mark.parametrize("crime", CRIMES.values(), ids=CRIMES)
async def test_a_violation_ends_the_lane_with_its_code(
    hosts: Hosts, kind: str, dialing: bool, crime: Crime
) -> None:
    async with against_raw(hosts, kind, dialing=dialing) as (host, peer):
        await peer.send(crime.raw)
        await convicted(host, peer, crime.code)


@each_kind
@each_role
@pytest.mark.parametrize("crime", FIRST_CRIMES.values(), ids=FIRST_CRIMES)
async def test_only_hello_may_come_first(hosts: Hosts, kind: str, dialing: bool, crime: Crime) -> None:
    async with against_raw(hosts, kind, dialing=dialing, greeted=False) as (host, peer):
        await peer.send(crime.raw)
        await convicted(host, peer, crime.code)
        assert host.frames == []


@each_kind
async def test_nothing_after_a_violation_is_processed(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await peer.send(encode(Open(1, 4096, TARGET)) + raw_header(99, 0, 0) + encode(Open(3, 1, TARGET), 1))
        await convicted(host, peer, Code.FRAME_TYPE)
        assert host.opened == {1}


@each_kind
async def test_a_bug_of_ours_is_reported_as_internal(hosts: Hosts, kind: str) -> None:
    def blunder(frame: Frame) -> None:
        raise MisuseError(Code.STREAM_STATE, "a bug")

    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        host.on_any_frame = blunder
        await peer.send(encode(Open(1, 4096, TARGET)))
        await peer.read_to_end()
        assert [frame.code for frame in peer.frames if isinstance(frame, GoAway)] == [Code.INTERNAL]
        assert isinstance(await only_end(host), MisuseError)


# Time.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL", 0.1)
    monkeypatch.setattr(keepalive, "TIMEOUT", 2.0)  # a busy machine may stall for most of a second


@each_kind
@each_role
@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_sends_nothing_is_lost(hosts: Hosts, kind: str, dialing: bool) -> None:
    async with against_raw(hosts, kind, dialing=dialing) as (host, peer):
        ended = await only_end(host)
        assert isinstance(ended, LaneLost)
        assert "keepalive timeout" in str(ended)
        await peer.read_to_end()
        assert peer.count(Ping) > 2


@each_pairing
@pytest.mark.usefixtures("impatient")
async def test_a_frozen_network_is_a_loss_on_both_sides(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds, cable=True) as pair:
        assert pair.cable is not None
        (number,) = await pair.opened()
        pair.a.send(number, 1 << 40)
        await until(lambda: pair.b.sinks[number].received > MIB)
        pair.cable.freeze()
        for host in (pair.a, pair.b):
            assert isinstance(await only_end(host), LaneLost)


@each_pairing
@pytest.mark.usefixtures("impatient")
async def test_an_idle_lane_stays_up(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        await until(lambda: min(host.calls.count("on_tick") for host in (pair.a, pair.b)) > 30)
        assert pair.a.ends == pair.b.ends == []


@each_pairing
@pytest.mark.usefixtures("impatient")
async def test_on_an_idle_lane_only_the_host_that_dialed_sends_pings(
    hosts: Hosts, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepalive, "LATE", 60.0)
    sent: Counter[bool] = Counter()
    poll = Keepalive.poll

    def noted(self: Keepalive, now: float, *, relying: bool) -> Ping | None:
        ping = poll(self, now, relying=relying)
        sent[relying] += ping is not None
        return ping

    monkeypatch.setattr(Keepalive, "poll", noted)
    async with joined(hosts, kinds):
        await until(lambda: sent[False] >= 5)
        assert sent[True] == 1, "the first one"


@each_pairing
@pytest.mark.usefixtures("impatient")
async def test_the_round_trip_is_measured(
    hosts: Hosts, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    poll = Keepalive.poll

    def noted(self: Keepalive, now: float, *, relying: bool) -> Ping | None:
        """Record PINGs after which no other follows for long: those sent on the frozen cable."""
        ping = poll(self, now, relying=relying)
        if ping is not None and self.wake_at - now > 30:
            asked.append(now)
        return ping

    monkeypatch.setattr(Keepalive, "poll", noted)
    async with joined(hosts, kinds, cable=True) as pair:
        assert pair.cable is not None
        await pair.opened()  # otherwise the acceptor sends no PINGs
        pair.cable.freeze()
        frozen = time.monotonic()
        monkeypatch.setattr(keepalive, "TIMEOUT", 60.0)
        monkeypatch.setattr(keepalive, "INTERVAL", 60.0)
        await until(lambda: len(asked) == 2)
        await until(lambda: time.monotonic() - max(asked) > 0.5)
        pair.cable.thaw()
        await until(lambda: min(pair.a.lane.round_trip, pair.b.lane.round_trip) >= 0.5)
        assert max(pair.a.lane.round_trip, pair.b.lane.round_trip) <= time.monotonic() - frozen


@each_kind
async def test_a_ping_is_answered_with_its_token(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (_, peer):
        await peer.send(encode(Ping(4711)))
        await peer.read_until(lambda: peer.count(Pong))
        assert Pong(4711) in peer.frames

"""Conformance suite of lanes, for every pairing of kinds: the contract in ``tunnel/lanes/lane.py``.

A new kind is added in ``tests.support.lanes.MAKERS``. Nothing here depends on how a lane encrypts. The second
half, how lanes end, is ``test_lane_endings``.
"""

from __future__ import annotations

import itertools

import pytest

from tests.support.driver import TARGET, TURN, Host
from tests.support.lanes import (
    EMULATED,
    KINDS,
    Hosts,
    Kinds,
    against_raw,
    each_kind,
    each_pairing,
    joined,
    stuffed,
)
from tests.support.waiting import turns, until
from tunnel.errors import LaneLost
from tunnel.lanes import base_lane
from tunnel.lanes.quanta import MOST_FRAMES, Turn
from tunnel.records.tls_messages import RECORD
from tunnel.units import KIB, MIB
from tunnel.wire.codec import encode
from tunnel.wire.codes import MAX_DATA, Code
from tunnel.wire.frames import Credit, Fin, Frame, Open, Opened, Ping, Pong
from tunnel.wire.scheduler import SLIVER
from tunnel.wire.session import Settings
from tunnel.wire.window import INITIAL_WINDOW

BULK = 3 * MIB // 2 if EMULATED else 48 * MIB  # emulated, encryption is about 70 times slower
STALLING = INITIAL_WINDOW + BULK // 3
MORE = 5 << 30
"""More bytes than fit in 32 bits."""

SINGLES = 400 if EMULATED else 2000
ODD_SIZES = (1, 7, 4093, 16383, 16384, 16385, 65537, 262147, 1048573, 1048576)


# Bytes.


@each_pairing
async def test_bulk_in_both_directions_simultaneously(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, BULK)
        pair.b.send(number, BULK)
        await pair.closed([number])
        assert pair.a.sinks[number].received == pair.b.sinks[number].received == BULK


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kinds", [("userspace", "compiled")], ids="-".join)
async def test_more_than_4_gib_in_both_directions_simultaneously(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, MORE)
        pair.b.send(number, MORE)
        await pair.closed([number], patience=800)
        assert pair.a.sinks[number].received == pair.b.sinks[number].received == MORE


@each_pairing
async def test_frames_of_any_size_arrive(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, 3 * sum(ODD_SIZES), ODD_SIZES)
        pair.b.send(number, 3 * sum(ODD_SIZES), reversed(ODD_SIZES))
        await pair.closed([number])


@each_pairing
async def test_single_bytes_arrive(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, SINGLES, (1,))
        pair.b.send(number, SINGLES, (1,))
        await pair.closed([number])


@each_pairing
async def test_many_streams_of_both_sides_share_a_lane(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        numbers = [*await pair.opened(32), *await pair.opened(32, by=pair.b)]
        totals = {}
        for number, size in zip(numbers, itertools.cycle(ODD_SIZES), strict=False):
            totals[number] = min(100 * size, BULK // 24) + number
            pair.a.send(number, totals[number], (size,))
            pair.b.send(number, 700 * number)
        await pair.closed(numbers)
        assert {number: pair.b.sinks[number].received for number in numbers} == totals
        assert {number: pair.a.sinks[number].received for number in numbers} == {n: 700 * n for n in numbers}


@each_pairing
async def test_one_direction_may_end_long_before_the_other(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, BULK // 16)
        await until(lambda: pair.b.sinks[number].ended)
        assert not pair.a.sinks[number].ended
        pair.b.send(number, BULK // 2)
        await pair.closed([number])
        assert pair.a.sinks[number].received == BULK // 2


@each_pairing
async def test_a_stalled_stream_stalls_no_other(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        stalled, moving = await pair.opened(2)
        pair.b.sinks[stalled].paused = True
        pair.a.send(stalled, STALLING)
        pair.a.send(moving, STALLING)
        pair.b.send(moving, 0)
        await pair.closed([moving])
        await until(lambda: pair.b.sinks[stalled].undelivered > INITIAL_WINDOW - SLIVER)
        assert pair.a.sources[stalled].sent <= INITIAL_WINDOW
        pair.b.resume(stalled)
        pair.b.send(stalled, 0)
        await pair.closed([stalled])
        assert pair.b.sinks[stalled].received == STALLING


@each_pairing
async def test_a_reset_in_the_middle_of_bulk_harms_no_other_stream(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        doomed, other = await pair.opened(2)
        for host in (pair.a, pair.b):
            host.send(doomed, 1 << 40)
            host.send(other, BULK // 3)
        await until(lambda: pair.b.sinks[doomed].received > MIB)
        pair.b.reset(doomed)
        await pair.closed([doomed, other])
        assert pair.a.resets == {doomed: Code.LOCAL_RESET}
        assert pair.a.sinks[other].received == pair.b.sinks[other].received == BULK // 3


@each_kind
@pytest.mark.parametrize("record", [1, 19, 1 << 20], ids=["bytewise", "19 bytes", "whole"])
async def test_frames_arrive_whole_and_in_order(hosts: Hosts, kind: str, record: int) -> None:
    """However they are split into TLS records."""
    wanted: list[Frame] = [Open(number, 4096, TARGET) for number in range(1, 40, 2)]
    wanted += [Credit(0, 0, 4096), Fin(1, 0)]
    raw = b"".join(encode(frame, sequence) for sequence, frame in enumerate(wanted[:-2]))
    raw += encode(wanted[-2]) + encode(wanted[-1], len(wanted) - 2)
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        await peer.send(raw, record)
        await until(lambda: len(host.frames) > len(wanted))
        assert host.frames[1:] == wanted
        await peer.read_until(lambda: peer.count(Opened) == 20)


# Order and backpressure, with a peer that does not read.


@each_kind
async def test_the_queue_of_a_full_lane_is_bounded(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        taken = await stuffed(host, peer)
        assert taken - host.lane.bytes_sent <= 2 * MAX_DATA
        host.sources[1].total = taken + 5 * MIB
        await peer.read_until(lambda: peer.count(Fin))
        assert len(peer.payload) == taken + 5 * MIB
        assert "on_writable" in host.calls


@each_kind
async def test_control_frames_overtake_bulk_that_is_not_queued_yet(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        taken = await stuffed(host, peer)
        host.open()
        await peer.read_until(lambda: peer.count(Open))
        position = next(i for i, frame in enumerate(peer.frames) if isinstance(frame, Open))
        # Before it are only the frames queued earlier, and at most one frame that was framed with it.
        assert peer.payload_before[position] <= taken + MAX_DATA
        await until(
            lambda: host.sources[1].sent > taken + 4 * MAX_DATA or not host.lane.room
        )  # bulk continues


# The rest of the interface.


@each_pairing
async def test_the_attributes_of_a_lane(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        a, b = pair.a.lane, pair.b.lane
        assert (a.kind, b.kind) == tuple(KINDS[kind] for kind in kinds)
        assert (a.local, a.remote) == (b.remote, b.local)
        assert a.cipher == b.cipher
        assert a.cipher.startswith("TLS_")
        assert (a.epoch, b.epoch) == (1, 1)
        (number,) = await pair.opened()
        pair.a.send(number, MIB)
        pair.b.send(number, 0)
        await pair.closed([number])
        assert MIB < b.bytes_received <= a.bytes_sent < MIB + 64 * KIB
        assert 16 * KIB <= a.batch <= MIB


@each_pairing
async def test_records_are_counted_and_a_key_limit_is_reported_once(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        for host in (pair.a, pair.b):
            host.lane.warn_at(40)
        pair.a.send(number, 2 * MIB)
        pair.b.send(number, 0)
        await pair.closed([number])
        await until(
            lambda: all("on_worn" in host.calls for host in (pair.a, pair.b)), "for on_worn on both sides"
        )
        await turns()
        assert [host.calls.count("on_worn") for host in (pair.a, pair.b)] == [1, 1]
        sent, received = pair.a.lane.records_sent, pair.b.lane.records_received
        assert 2 * MIB // RECORD <= received <= sent + 8
        assert sent <= 2 * (2 * MIB // RECORD) + 40
        assert pair.b.lane.records_sent < 40 <= pair.a.lane.records_sent


@each_pairing
async def test_a_lane_is_lost_before_a_key_exceeds_its_limit(
    hosts: Hosts, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_lane, "KEY_LIMIT", 60)
    async with joined(hosts, kinds) as pair:
        (number,) = await pair.opened()
        pair.a.send(number, 1 << 40)
        await until(lambda: pair.a.ends and pair.b.ends, "for the end on both sides")
        ends = [*pair.a.ends, *pair.b.ends]
        assert all(isinstance(end, LaneLost) for end in ends)
        assert any("TLS key limit reached" in str(end) for end in ends), "the reason on the side that counted"
        assert pair.a.lane.records_sent < 60 + 2 * TURN // RECORD, (
            "plus what the owner sends in one loop iteration"
        )


@each_kind
async def test_a_new_handler_gets_the_following_frames(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (first, peer):
        heir = Host(initiator=False)

        def give_away(frame: Frame) -> None:
            heir.inherit(first)

        first.on_any_frame = give_away
        await peer.send(encode(Open(1, 4096, TARGET)) + encode(Open(3, 4096, TARGET), 1))
        await until(lambda: heir.frames)
        assert [frame.stream for frame in first.frames if isinstance(frame, Open)] == [1]
        assert heir.frames == [Open(3, 4096, TARGET)]


@each_pairing
async def test_a_small_memory_budget_is_enough(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds, settings=Settings(memory=64 * KIB, window=64 * KIB)) as pair:
        numbers = await pair.opened(4)
        for number in numbers:
            pair.a.send(number, BULK // 12)
            pair.b.send(number, BULK // 48)
        await pair.closed(numbers)


@each_kind
async def test_a_lane_can_be_aborted_before_its_session(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False, greeted=False) as (host, peer):
        host.lane.abort()
        await peer.read_to_end()
        await turns()
        assert host.calls == []


@each_pairing
async def test_each_ping_is_answered_once(hosts: Hosts, kinds: Kinds) -> None:
    async with joined(hosts, kinds) as pair:
        for host in (pair.a, pair.b):
            signs: list[int] = []
            for number in (1, 2):
                host.lane.ping(lambda number=number, signs=signs: signs.append(number))  # type: ignore[misc]  # defaults
                await until(lambda number=number, signs=signs: number in signs)  # type: ignore[misc]
            await turns(100)
            assert signs == [1, 2]


@each_kind
async def test_the_reply_to_a_later_ping_counts_too(hosts: Hosts, kind: str) -> None:
    """Of several PINGs the peer may reply only to the newest, which may be one of keepalive's."""
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        signs: list[int] = []
        await peer.read_until(lambda: peer.count(Ping) == 1)
        host.lane.ping(lambda: signs.append(1))
        await peer.read_until(lambda: peer.count(Ping) == 2)
        await peer.send(encode(Pong(1)) + encode(Open(1, 1 << 40, TARGET)))
        await until(lambda: 1 in host.opened)
        assert signs == []
        host.lane.ping(lambda: signs.append(2))
        await peer.read_until(lambda: peer.count(Ping) == 3)
        await peer.send(encode(Pong(3)))
        await until(lambda: signs == [2])


@each_kind
async def test_an_ended_lane_calls_no_ping_callback(hosts: Hosts, kind: str) -> None:
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        signs: list[int] = []
        host.lane.ping(lambda: signs.append(1))
        host.lane.abort()
        assert host.lane.ended
        await peer.read_to_end()
        await turns(100)
        assert signs == []


@each_kind
async def test_a_flood_that_has_to_wait_for_others_is_processed_completely(
    hosts: Hosts, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def pause(turn: Turn) -> float:
        waits.append(0.001 if turn._cut else 0.0)
        return waits[-1]

    monkeypatch.setattr(Turn, "pause", pause)
    async with against_raw(hosts, kind, dialing=False) as (host, peer):
        opening = encode(Open(1, 1 << 40, TARGET))
        flood = b"".join(encode(Credit(1, 0, (1 << 40) + number)) for number in range(10 * MOST_FRAMES))
        await peer.send(opening + flood + encode(Open(3, 1 << 40, TARGET), 1))
        await until(lambda: 3 in host.opened)
        assert any(waits)
        await peer.send(encode(Open(5, 1 << 40, TARGET), 2))
        await until(lambda: 5 in host.opened)

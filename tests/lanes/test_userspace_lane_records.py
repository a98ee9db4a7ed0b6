"""Records of a userspace lane: key updates, alerts in both directions, shared buffers."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace

import pytest

from tests.support.driver import TARGET
from tests.support.lanes import Hosts, unread_for_now
from tests.support.userspacelanes import each_engine, fill, lane_and_peer, lane_and_records, pings, unread
from tests.support.waiting import until
from tunnel.errors import LaneLost
from tunnel.lanes.userspace_lane import ASIDES
from tunnel.records.key_schedule import SUITES
from tunnel.records.tls_messages import (
    ACCESS_DENIED,
    ALERT,
    DATA,
    DECODE_ERROR,
    FATAL,
    HANDSHAKE,
    ILLEGAL_PARAMETER,
    KEY_UPDATE,
    RECORD,
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
)
from tunnel.wire.codec import encode
from tunnel.wire.codes import HEADER_SIZE
from tunnel.wire.frames import Open, Ping

__all__ = ["each_engine"]

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.mark.parametrize("asking", [False, True], ids=["not requested", "requested"])
async def test_a_few_key_updates_are_applied_and_a_flood_ends_the_lane(hosts: Hosts, asking: bool) -> None:
    async with lane_and_records(hosts) as (host, lane, peer):
        few, before = int(ASIDES.burst) // 2, lane.bytes_received
        await peer.send(*(peer.sealer.update(asking=asking) for _ in range(few)))
        await peer.send(peer.sealer.record(DATA, encode(Ping(7))))
        await until(lambda: lane.bytes_received - before == HEADER_SIZE)
        assert host.ends == []
        await peer.send(
            *(peer.sealer.update(asking=asking) for _ in range(1000)), peer.sealer.record(DATA, b"x")
        )
        await until(lambda: host.ends)
        assert isinstance(host.ends[0], LaneLost)
        assert "more than 32 non-data messages" in str(host.ends[0])


async def test_reaching_the_key_limit_ends_the_lane(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, suite in SUITES.items():
        monkeypatch.setitem(SUITES, name, replace(suite, most_records=40))
    async with lane_and_peer(hosts) as (host, lane, _):
        while lane.records_sent < 40:
            lane.send(host.session.send(1, b"x", 1))
        lane.send(host.session.send(1, b"lost", 1))
        await until(lambda: host.ends)
        assert [type(end) for end in host.ends] == [LaneLost]
        assert re.search("key limit reached: (the key has protected 40|no more) records", str(host.ends[0]))
        assert lane.records_sent == 40


async def test_an_alert_is_sent_for_an_invalid_record(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, _, peer):
        await peer.send_raw(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            await peer.read_to_end()
        await until(lambda: host.ends)
        assert "TLS failed: a record failed authentication (bad_record_mac)" in str(host.ends[0])


async def test_access_denied_means_that_the_peer_does_not_list_this_host(hosts: Hosts) -> None:
    async with lane_and_records(hosts) as (host, _, peer):
        await peer.send(peer.sealer.record(ALERT, bytes([FATAL, ACCESS_DENIED])))
        await until(lambda: host.ends)
        assert "the peer does not list this host in its configuration" in str(host.ends[0])


async def test_a_requested_key_update_is_answered_immediately(hosts: Hosts) -> None:
    async with lane_and_records(hosts) as (host, lane, peer):
        for _ in range(3):
            await peer.send(peer.sealer.update(asking=True))
            assert await peer.heard(HANDSHAKE) == bytes([KEY_UPDATE, 0, 0, 1, 0])
            assert lane.records_sent == 0
            await peer.send(peer.sealer.record(DATA, encode(Ping(7))))
            await until(lambda: lane.records_sent)
        assert host.ends == []


async def test_a_full_lane_answers_a_key_update_when_there_is_room(hosts: Hosts) -> None:
    async with lane_and_records(hosts) as (host, lane, peer):
        await peer.send(peer.sealer.record(DATA, encode(Open(1, 1 << 40, TARGET))))
        await until(lambda: host.opened)
        fill(host, lane)
        await peer.send(peer.sealer.update(asking=True))
        await until(lambda: lane._records.owes_update)
        assert await peer.heard(HANDSHAKE) == bytes([KEY_UPDATE, 0, 0, 1, 0])
        assert host.ends == []


@pytest.mark.parametrize(
    ("kind", "content", "alert"),
    [
        (HANDSHAKE, b"\1\0\0\0", UNEXPECTED_MESSAGE),
        (HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 0]), DECODE_ERROR),
        (HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 1, 7]), ILLEGAL_PARAMETER),
        (DATA, bytes(RECORD + 1), RECORD_OVERFLOW),
    ],
)
async def test_a_tls_violation_is_answered_with_its_alert(
    hosts: Hosts, kind: int, content: bytes, alert: int
) -> None:
    async with lane_and_records(hosts) as (host, _, peer):
        await peer.send(peer.sealer.record(kind, content))
        assert await peer.heard(ALERT) == bytes([FATAL, alert])
        await until(lambda: host.ends)
        assert isinstance(host.ends[0], LaneLost)


async def test_unopened_bytes_of_one_lane_are_safe_from_another(hosts: Hosts) -> None:
    """They share the receive buffer."""
    async with lane_and_peer(hosts) as (one, lane, torn), lane_and_peer(hosts) as (_, other, whole):
        record = torn.encrypt(encode(Open(3, 1 << 40, TARGET), 1))
        await torn.send_raw(record[:-1])
        await until(lambda: unread(lane._sock) == 0)
        before = other.bytes_received
        await whole.send(pings(1000))
        await until(lambda: other.bytes_received == before + 1000 * HEADER_SIZE)
        await torn.send_raw(record[-1:])
        await until(lambda: 3 in one.opened)


async def test_many_tiny_records_of_one_lane_are_safe_from_another(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (one, lane, flood), lane_and_peer(hosts) as (_, other, whole):
        with unread_for_now(lane):
            raw = flood.encrypt(pings(100) + encode(Open(3, 1 << 40, TARGET), 1), record=1)
            await flood.send_raw(raw)
            await until(lambda: unread(lane._sock) == len(raw))
        await whole.send(pings(1000))
        await until(lambda: 3 in one.opened)
        assert not lane.ended
        assert not other.ended


async def test_writable_payload_is_unchanged_after_it_is_sent(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        memory = bytearray(range(256)) * 3000
        before = bytes(memory)
        lane.send(host.session.send(1, memoryview(memory), 1))
        await peer.read_until(lambda: len(peer.payload) == len(before))
        assert peer.payload == memory == before

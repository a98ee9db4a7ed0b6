"""The buffers of Python's record I/O."""

from __future__ import annotations

from tests.support.lanes import Hosts
from tests.support.userspacelanes import lane_and_peer
from tunnel.lanes.userspace_lane import SMALL, UserspaceLane
from tunnel.records.record_io import BATCH, FEW, PythonRecordIo
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import GoAway


def io_of(lane: UserspaceLane) -> PythonRecordIo:
    assert isinstance(lane._io, PythonRecordIo)
    return lane._io


async def test_a_lane_that_carries_no_payload_has_no_large_buffer(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (host, lane, peer):
        assert len(io_of(lane)._outgoing) == FEW
        lane.send_control(encode(GoAway(Code.NONE, "r" * 1000)) * 20)  # more than the buffer holds
        lane.flush()
        lane.send(host.session.send(1, bytes(SMALL), 1))
        await peer.read_until(lambda: len(peer.payload) == SMALL)
        assert peer.count(GoAway) == 20
        assert len(io_of(lane)._outgoing) > BATCH


async def test_lanes_of_a_thread_share_their_large_buffers(hosts: Hosts) -> None:
    async with lane_and_peer(hosts) as (_, one, _), lane_and_peer(hosts) as (_, other, _):
        assert io_of(one)._incoming is io_of(other)._incoming
        assert one._plain is other._plain
        assert io_of(one)._outgoing is not io_of(other)._outgoing, "it holds unsent bytes"

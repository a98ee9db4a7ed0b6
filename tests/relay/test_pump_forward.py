"""Payload that a lane reads from a pump's socket, or writes to it, directly."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.support.pumps import NOISE, Local
from tests.support.waiting import turns, until
from tunnel.lanes.lane import SourceRead
from tunnel.lanes.userspace_lane import NOTHING
from tunnel.relay.pump import ENOUGH
from tunnel.units import MIB


@pytest.fixture(params=["unix", "tcp"])
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Local]:
    made = Local(request.param)
    made.pump._heeds = False  # do not wait for more
    yield made
    made.pump.reset()
    made.hypervisor.close()


class Carry:
    """``Lane.carry``: reads until the buffers are full or the socket is empty."""

    def __init__(self, behind: OSError | None = None) -> None:
        self.calls = 0
        self.rooms = 0
        self._behind = behind

    def __call__(self, source: int, rooms: Sequence[memoryview]) -> SourceRead:
        self.calls, self.rooms = self.calls + 1, len(rooms)
        try:
            count = os.readv(source, rooms)
        except BlockingIOError:
            return SourceRead(0, empty=True, ended=False, error=self._behind)
        room = sum(map(len, rooms))
        return SourceRead(count, empty=0 < count < room, ended=not count, error=self._behind)


def forward(local: Local, carry: Carry, limit: int = MIB) -> bytes | None:
    pieces = local.pump.forward(carry, limit)
    return None if pieces is None else b"".join(map(bytes, pieces))  # type: ignore[arg-type]


async def say(local: Local, data: bytes) -> None:
    """Let the hypervisor send ``data``, and wait until the pump reports it."""
    before = local.owner.readable
    local.pump.start_reading()
    assert local.hypervisor.send(data) == len(data)
    await until(lambda: local.owner.readable > before, "for the pump to report it")


async def test_what_was_carried_is_kept(local: Local) -> None:
    carry = Carry()
    for start in range(0, 4 * ENOUGH, ENOUGH // 4):
        piece = NOISE[start : start + ENOUGH // 4]
        await say(local, piece)
        got = b""
        while len(got) < len(piece):
            got += forward(local, carry) or b""
        assert got == piece
    assert local.pump.bytes_read == 4 * ENOUGH
    local.pump.release(4 * ENOUGH)


async def test_bulk_gets_several_buffers(local: Local) -> None:
    carry = Carry()
    await say(local, b"little")
    assert forward(local, carry, 4 * MIB) == b"little"
    assert carry.rooms == 1

    def much(source: int, rooms: Sequence[memoryview]) -> SourceRead:
        carry.rooms = len(rooms)
        return SourceRead(ENOUGH, empty=False, ended=False, error=None)

    for expected in (False, True):
        assert sum(map(len, local.pump.forward(much, 4 * MIB) or ())) == ENOUGH
        assert (carry.rooms > 1) == expected


async def test_empty_socket_is_watched_for_data(local: Local) -> None:
    carry = Carry()
    assert forward(local, carry) is None
    await say(local, b"page")
    assert forward(local, carry) == b"page"
    assert local.pump.drained, "no other read is needed"
    local.hypervisor.send(b"more")
    await until(lambda: local.owner.readable == 2, "for the socket, which is watched")
    assert forward(local, carry) == b"more"


async def test_readable_socket_that_is_not_read_is_no_longer_watched(local: Local) -> None:
    """The loop would report it in each iteration."""
    await say(local, b"page")
    await until(lambda: not local.pump._watched)
    await turns()
    assert local.owner.readable == 1
    assert forward(local, Carry()) == b"page"
    assert local.pump._watched


async def test_reset_is_reported_again_if_the_lane_had_no_room_before(local: Local) -> None:
    """uvloop stops watching a socket after it has reported an error."""
    local.pump.deliver(b"unread")
    local.pump.flush()
    local.pump.start_reading()
    local.hypervisor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    local.hypervisor.close()
    await until(lambda: local.owner.readable == 1, "for the reset")
    assert local.pump.forward(lambda *_: NOTHING, MIB) is None
    await until(lambda: local.owner.readable == 2, "for the reset once more")


async def test_the_end_has_no_pieces(local: Local) -> None:
    local.hypervisor.shutdown(1)
    carry = Carry()
    await until(lambda: forward(local, carry) == b"", "for the end")
    assert local.pump.read_ended


async def test_failure_is_raised_after_the_bytes_before_it(local: Local) -> None:
    failure = OSError(errno.EOPNOTSUPP, "descriptors")
    await say(local, b"before")
    assert forward(local, Carry(failure)) == b"before"
    with pytest.raises(OSError, match="descriptors"):
        forward(local, Carry())
    assert forward(local, Carry()) is None
    with pytest.raises(OSError, match="descriptors"):
        forward(local, Carry(failure))


# To the socket.


async def test_lane_may_write_while_nothing_is_buffered(local: Local) -> None:
    pump = local.pump
    assert pump.sink == pump.descriptor
    pump.deliver(b"x")
    assert pump.sink == -1, "before it is written"
    pump.flush()
    assert pump.sink == pump.descriptor
    pump.on_passed(5, None)
    assert (pump.bytes_written, local.owner.delivered) == (6, [1, 5])
    local.stuff()
    assert pump.sink == -1, "the socket is full"


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ECONNRESET])
async def test_failed_sink_accepts_no_more(local: Local, number: int) -> None:
    error = OSError(number, os.strerror(number))
    local.pump.on_passed(3, error)
    assert local.owner.delivered == [3]
    assert local.owner.errors == [error]
    assert local.owner.resets == [error] * (number != errno.EPIPE)
    assert local.pump.broken
    assert local.pump.sink == -1

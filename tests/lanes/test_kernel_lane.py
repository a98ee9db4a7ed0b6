"""The kernel lane without TLS: how it parses frames, and splices payload through pipes.

Everything but encryption and control records is the same on a plain socket. With kernel TLS, the conformance
suite runs in a virtual machine: ``test_emulated_kernel``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from tests.support.driver import TARGET, Host, content
from tests.support.lanes import LIMITS, Endless, Pair, unread_for_now
from tests.support.network import tcp_pair
from tests.support.waiting import turns, unexpected, until
from tunnel.errors import LaneLost
from tunnel.lanes import base_lane, kernel_tls
from tunnel.lanes.kernel_lane import MOST_RECORDS, PASSED_ON, KernelLane
from tunnel.lanes.kernel_payload import Pipe, PipeSegment, PipeSlice, RetransmitPipe
from tunnel.lanes.quanta import MOST_FRAMES, Turn
from tunnel.records.tls_messages import ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB, MIB
from tunnel.wire.codec import data_header, encode, parse_header
from tunnel.wire.codes import HEADER_SIZE, MAX_DATA, Code, FrameType
from tunnel.wire.frames import Credit, Open
from tunnel.wire.negotiation import hello
from tunnel.wire.payload import Outgoing, Payload
from tunnel.wire.states import LaneState

CIPHER = "none"
ODD_SIZES = (1, 7, 4093, 16385, 65537, 262147, 1048576)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two hosts with a session over kernel lanes on a plain connection."""
    dialing, accepting = tcp_pair()
    with dialing, accepting, unexpected() as surprises:
        made = Pair(Host(True), Host(False))
        made.b.own(KernelLane(accepting, CIPHER, "hosta", LaneState.AWAIT_FIRST))
        made.a.own(KernelLane(dialing, CIPHER, "hostb", LaneState.AWAIT_WELCOME))
        await until(lambda: made.a.ready and made.b.ready, "for a session")
        yield made
        made.a.lane.abort()
        made.b.lane.abort()
    assert made.a.faults == made.b.faults == []
    assert not surprises, "\n".join(surprises)


class Raw:
    """A host whose lane receives arbitrary bytes from another socket; stream 1 is open."""

    def __init__(self) -> None:
        ours, self.sock = tcp_pair()
        self.host = Host(False)
        self.lane = KernelLane(ours, CIPHER, "hosta", LaneState.AWAIT_FIRST)
        self.host.own(self.lane)
        self.sent = 0

    async def say(self, data: bytes) -> None:
        async with asyncio.timeout(60):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def frame(self, size: int) -> bytes:
        start, self.sent = self.sent, self.sent + size
        return data_header(1, start, size) + content(1, start, size, initiator=True)


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    with unexpected() as surprises:
        made = Raw()
        await made.say(encode(hello(b"R" * 16, b"I" * 16, LIMITS)) + encode(Open(1, 1 << 40, TARGET)))
        await until(lambda: made.host.opened)
        yield made
        made.lane.abort()
        made.sock.close()
    assert made.host.faults == []
    assert not surprises, "\n".join(surprises)


async def test_bytes_go_both_ways_in_frames_of_any_size(pair: Pair) -> None:
    (number,) = await pair.opened()
    pair.a.send(number, 3 * sum(ODD_SIZES), ODD_SIZES)
    pair.b.send(number, 3 * sum(ODD_SIZES), reversed(ODD_SIZES))
    await pair.closed([number])
    assert pair.a.lane.kind is LaneKind.KERNEL
    assert pair.a.lane.cipher == CIPHER
    assert pair.a.lane.bytes_sent == pair.b.lane.bytes_received


async def test_a_stalled_stream_stalls_no_other(pair: Pair) -> None:
    stalled, moving = await pair.opened(2)
    pair.b.sinks[stalled].paused = True
    pair.a.send(stalled, 16 * MIB)
    pair.a.send(moving, 16 * MIB)
    pair.b.send(moving, 0)
    await pair.closed([moving])
    pair.b.resume(stalled)
    pair.b.send(stalled, 0)
    await pair.closed([stalled])


@pytest.mark.parametrize("cut", [1, 19, 20, 21, 4093])
async def test_frames_may_arrive_in_any_pieces(raw: Raw, cut: int) -> None:
    stream = b"".join(raw.frame(size) for size in (1, 5000, 20, 3))
    for start in range(0, len(stream), cut):
        await raw.say(stream[start : start + cut])
    await until(lambda: raw.host.sinks[1].received == raw.sent)


async def test_pieces_passed_on_fit_into_a_cache(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    take = raw.host.deliver

    def watched(stream: int, offset: int, payload: Payload) -> None:
        sizes.append(len(payload))
        take(stream, offset, payload)

    monkeypatch.setattr(raw.host, "deliver", watched)
    await raw.say(raw.frame(MAX_DATA))
    await until(lambda: raw.host.sinks[1].received == MAX_DATA)
    assert max(sizes) <= PASSED_ON


async def test_payload_is_passed_in_a_pipe_and_dropped_if_the_handler_does_not_take_it(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[type] = set()
    monkeypatch.setattr(raw.host, "deliver", lambda *call: kinds.add(type(call[-1])))
    await raw.say(raw.frame(300_000) + encode(Open(3, 4096, TARGET), 1))
    await until(lambda: 3 in raw.host.opened, "for the next frame")
    assert kinds == {PipeSlice}


async def test_a_segment_is_sent_from_its_pipe_behind_its_header(raw: Raw) -> None:
    payload = os.urandom(500_000)
    pipe, keeper = Pipe(), RetransmitPipe()
    os.write(pipe.sink, payload)
    keeper.keep(pipe, len(payload))
    parcel = PipeSegment(keeper, 0, len(payload), pipe)
    raw.host.kick()
    outgoing = raw.host.session.send(1, parcel, 1)
    raw.lane.send_control(encode(Open(2, 4096, TARGET)))
    raw.lane.send(outgoing)
    wanted = data_header(1, 0, len(payload)) + payload
    got = b""

    def arrived() -> bool:
        nonlocal got
        try:
            got += raw.sock.recv(MIB)
        except BlockingIOError:
            return False
        return got.endswith(wanted)

    await until(arrived, "for the segment")


@pytest.mark.parametrize("sends", [True, False])
async def test_the_kernels_record_count_is_read_only_at_a_mark(
    raw: Raw, monkeypatch: pytest.MonkeyPatch, sends: bool
) -> None:
    """The lane's own count is an upper bound; the kernel's is exact."""
    asked: list[int] = []

    def count(sock: socket.socket, cipher: str, direction: int) -> int:
        assert cipher == CIPHER
        asked.append(direction)
        return 3 * len(asked)

    monkeypatch.setattr(kernel_tls, "record_number", count)
    raw.lane.warn_at(8)
    number = 1
    while "on_worn" not in raw.host.calls:
        if sends:
            raw.lane.send_control(encode(Open(2 * number, 4096, TARGET)))
            raw.lane.flush()
        else:
            await raw.say(encode(Credit(0, 0, 1024)))
        number += 1
        assert number < 100
        await turns(3)
    assert set(asked) == {kernel_tls.SEND if sends else kernel_tls.RECEIVE}
    assert len(asked) == 3, "3, 6 and 9 records"


async def test_without_the_kernels_record_count_the_lanes_own_is_used(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "an old kernel")

    monkeypatch.setattr(kernel_tls, "record_number", refuse)
    made, taken = raw.lane.records_sent, raw.lane.records_received
    raw.lane.send_control(encode(Open(2, 4096, TARGET)))
    raw.lane.flush()
    await raw.say(raw.frame(40_000))
    await until(lambda: raw.host.sinks[1].received == 40_000)
    assert raw.lane.records_sent == made + 1
    assert raw.lane.records_received >= taken + 2


def a_parcel(raw: Raw, size: int) -> tuple[RetransmitPipe, bytes, Outgoing]:
    """Return the first frame of stream 1, as a PipeSegment."""
    payload = os.urandom(size)
    pipe, keeper = Pipe(), RetransmitPipe()
    os.write(pipe.sink, payload)
    assert keeper.keep(pipe, size) == size
    return keeper, payload, raw.host.session.send(1, PipeSegment(keeper, 0, size, pipe), 1)


async def heard(raw: Raw, end: bytes) -> bytes:
    """Return what the lane sent since the last call, up to ``end``."""
    got = b""
    async with asyncio.timeout(60):
        while not got.endswith(end):
            data = await asyncio.get_running_loop().sock_recv(raw.sock, MIB)
            assert data, got
            got += data
    return got


async def test_delivered_bytes_are_left_out_of_a_retransmitted_frame(raw: Raw) -> None:
    raw.host.kick()
    keeper, payload, outgoing = a_parcel(raw, 100_000)
    mark = encode(Open(2, 4096, TARGET))
    raw.lane.send(outgoing)
    await heard(raw, payload)
    keeper.release(40_000)
    raw.lane.send(outgoing)
    keeper.release(100_000)
    raw.lane.send(outgoing)
    raw.lane.send_control(mark)
    raw.lane.flush()
    assert await heard(raw, mark) == data_header(1, 40_000, 60_000) + payload[40_000:] + mark


async def test_no_header_is_sent_without_its_payload(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "no pipe")

    raw.host.kick()
    _, _, outgoing = a_parcel(raw, 100_000)
    mark = encode(Open(2, 4096, TARGET))
    raw.lane.send_control(mark)
    raw.lane.flush()
    await heard(raw, mark)
    monkeypatch.setattr(PipeSegment, "take", fail)
    with pytest.raises(OSError, match="no pipe"):
        raw.lane.send(outgoing)
    goaway = await heard(raw, CLOSE_NOTIFY)
    assert parse_header(goaway).type is FrameType.GOAWAY
    await until(lambda: raw.host.ends)
    assert "internal error: " in str(raw.host.ends[0])


async def test_bytes_left_by_a_full_socket_are_sent_later(raw: Raw) -> None:
    raw.host.send(1, 1 << 40)
    await until(lambda: not raw.lane.room)
    raw.host.sources[1].total = raw.host.sources[1].sent + 3 * MIB
    raw.sock.setblocking(False)
    got = 0

    def drained() -> bool:
        nonlocal got
        try:
            got += len(raw.sock.recv(8 * MIB))
        except BlockingIOError:
            return raw.lane.room and raw.host.sources[1].sent == raw.host.sources[1].total
        return False

    await until(drained)
    assert got >= raw.host.sources[1].total
    assert raw.lane.bytes_sent >= raw.host.sources[1].total + HEADER_SIZE
    assert 16 * KIB <= raw.lane.batch <= MIB


async def test_an_end_without_goaway_is_a_loss(raw: Raw) -> None:
    raw.sock.shutdown(socket.SHUT_WR)
    await until(lambda: raw.host.ends)
    assert isinstance(raw.host.ends[0], LaneLost)
    assert "closed without GOAWAY" in str(raw.host.ends[0])


async def test_a_reset_amid_payload_is_reported_although_the_kernel_reports_it_once(raw: Raw) -> None:
    with unread_for_now(raw.lane):
        await raw.say(raw.frame(5000)[:-1])
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sock.close()
    await until(lambda: raw.host.ends)
    assert isinstance(raw.host.ends[0], LaneLost)
    assert os.strerror(errno.ECONNRESET) in str(raw.host.ends[0])
    assert raw.host.sinks[1].received == 4999


async def test_a_socket_error_is_a_loss_with_its_reason(raw: Raw) -> None:
    raw.lane._sock.shutdown(socket.SHUT_WR)
    raw.lane.send_control(b"late")
    raw.lane.flush()
    await until(lambda: raw.host.ends)
    assert "Broken pipe" in str(raw.host.ends[0])


async def test_a_closing_lane_sends_goaway_and_close_notify_and_waits_for_the_peer(raw: Raw) -> None:
    raw.lane.close(Code.DRAINING, "maintenance")
    await raw.say(b"\xff" * 100_000)
    heard = b""
    async with asyncio.timeout(60):
        while data := await asyncio.get_running_loop().sock_recv(raw.sock, MIB):
            heard += data
    assert heard.endswith(b"maintenance" + CLOSE_NOTIFY)
    raw.sock.close()
    await until(raw.lane.gone.is_set)
    assert raw.host.ends == []


class Records:
    """Simulates a kernel with TLS whose next records are not data."""

    def __init__(self, lane: KernelLane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[tuple[int, bytes] | OSError] = []
        self._take, self._lane = lane._take, lane
        monkeypatch.setattr(lane, "_take", self._next)
        monkeypatch.setattr(kernel_tls, "receive_record", self._record)

    def _next(self) -> memoryview | PipeSlice:
        if self.waiting:
            raise OSError(errno.EIO, "")
        return self._take()

    def _record(self, _: socket.socket) -> tuple[int, bytes]:
        record = self.waiting.pop(0)
        if isinstance(record, OSError):
            raise record
        return record


async def test_session_tickets_between_frames_are_ignored(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(raw.lane, monkeypatch)
    records.waiting += [(HANDSHAKE, b"\4\0\0\1x")] * 2
    await raw.say(raw.frame(10))
    await until(lambda: raw.host.sinks[1].received == 10)
    assert not records.waiting


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ((ALERT, CLOSE_NOTIFY), "closed without GOAWAY"),
        ((HANDSHAKE, b"\x18\0\0\1\0"), "the peer sent KeyUpdate"),
        ((DATA, b"payload"), "did not splice 7 bytes of payload"),
        (OSError(errno.EBADMSG, ""), "a record failed authentication"),
    ],
)
async def test_other_non_data_records_end_the_lane(
    raw: Raw, monkeypatch: pytest.MonkeyPatch, record: tuple[int, bytes] | OSError, reason: str
) -> None:
    Records(raw.lane, monkeypatch).waiting.append(record)
    await raw.say(raw.frame(10))
    await until(lambda: raw.host.ends)
    assert isinstance(raw.host.ends[0], LaneLost)
    assert reason in str(raw.host.ends[0])
    await turns()
    assert raw.host.sinks[1].received == 0


@pytest.mark.parametrize("content", [b"\4\0\0\1x", b""], ids=["tickets", "empty records"])
async def test_the_number_of_non_data_records_is_bounded(
    raw: Raw, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    records = Records(raw.lane, monkeypatch)
    records.waiting += [(HANDSHAKE, content)] * 3 * MOST_RECORDS
    await raw.say(raw.frame(10))
    await until(lambda: raw.host.ends)
    assert f"more than {MOST_RECORDS} non-data records" in str(raw.host.ends[0])
    assert len(records.waiting) == 2 * MOST_RECORDS - 1


async def test_a_peer_that_never_stops_sending_cannot_hold_a_closing_lane(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    monkeypatch.setattr(kernel_tls, "receive_record", lambda _: (DATA, b"x" * endless.take()))
    monkeypatch.setattr(base_lane, "LINGER", 0.05)
    raw.lane.close(Code.DRAINING, "maintenance")
    await raw.say(b"x")
    await until(raw.lane.gone.is_set)
    assert endless.left, "the loop was not blocked, and LINGER ended"


async def test_a_flood_of_frames_is_processed_in_quanta_and_in_order(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []  # frames, by quantum
    begin = Turn.begin

    def begin_counted(turn: Turn) -> None:
        taken.append(raw.host.calls.count("on_frame"))
        begin(turn)

    with unread_for_now(raw.lane):
        flood = b"".join(encode(Credit(1, 0, (1 << 40) + number)) for number in range(5 * MOST_FRAMES))
        await raw.say(flood + encode(Open(3, 1 << 40, TARGET), 1))
        monkeypatch.setattr(Turn, "begin", begin_counted)
    await until(lambda: 3 in raw.host.opened)
    assert len(taken) >= 5
    assert max(after - before for before, after in pairwise(taken)) <= MOST_FRAMES


async def test_a_flood_waits_for_other_lanes_and_is_not_lost(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def pause(turn: Turn) -> float:
        waits.append(0.001 if turn._cut else 0.0)
        return waits[-1]

    monkeypatch.setattr(Turn, "pause", pause)
    await raw.say(b"".join(encode(Credit(1, 0, (1 << 40) + number)) for number in range(5 * MOST_FRAMES)))
    await raw.say(encode(Open(3, 1 << 40, TARGET), 1) + raw.frame(100_000))
    await until(lambda: raw.host.sinks[1].received == 100_000)
    assert any(waits)
    assert 3 in raw.host.opened

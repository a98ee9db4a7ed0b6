"""Payload in pipes: received as a PipeSlice, sent as a PipeSegment, retransmitted from a RetransmitPipe."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.support.waiting import unexpected
from tunnel.lanes import kernel_payload
from tunnel.lanes.kernel_payload import Pipe, PipeSegment, PipeSlice, RetransmitPipe
from tunnel.units import KIB
from tunnel.wire.payload import Piece, copied

NOISE = random.Random(443).randbytes(3 << 20)


def lent(content: bytes, behind: bytes = b"") -> tuple[PipeSlice, Pipe]:
    pipe = Pipe()
    assert os.write(pipe.sink, content + behind) == len(content + behind)
    return PipeSlice(pipe, len(content)), pipe


class Stream:
    """Makes PipeSegments of ``NOISE``, as a pump does of what it reads."""

    def __init__(self) -> None:
        self.keeper = RetransmitPipe()
        self.sent = 0

    def parcel(self, size: int) -> PipeSegment:
        pipe = Pipe()
        assert os.write(pipe.sink, NOISE[self.sent : self.sent + size]) == size
        assert self.keeper.keep(pipe, size) == size
        self.sent += size
        return PipeSegment(self.keeper, self.sent - size, size, pipe)

    def parcels(self, *sizes: int) -> list[PipeSegment]:
        return [self.parcel(size) for size in sizes]


def content(parcel: PipeSegment, start: int = 0, stop: int | None = None) -> bytes:
    end = len(parcel) if stop is None else stop
    begin, load = parcel.take(start, end)
    assert begin == start
    return load if isinstance(load, bytes) else load.read(end - start)


def no_pipe(*_: object) -> Pipe:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def small_pipe(*_: object) -> Pipe:
    return Pipe(4096)


# PipeSlice.


def test_a_slice_can_be_copied_and_leaves_what_follows_it() -> None:
    payload, pipe = lent(b"payload", b"header")
    assert len(payload) == 7
    assert copied(payload) == b"payload"
    assert len(payload) == 7, "its length does not change"
    assert payload.left == 0
    assert pipe.read(6) == b"header"


def test_a_whole_slice_stays_in_the_pipe() -> None:
    payload, _ = lent(b"payload")
    assert Piece(payload, 0, 7).content is payload
    assert payload.left == 7


def test_a_part_of_a_slice_is_copied() -> None:
    payload, pipe = lent(b"payload", b"header")
    assert Piece(payload, 3, 7).content == b"load"
    assert pipe.read(6) == b"header"


def test_a_slice_is_spliced_to_a_socket_until_that_is_full() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        taken, total = b"", 0
        with suppress(BlockingIOError):
            while True:
                one.send(NOISE[:1000])
                total += 1000
        payload, _ = lent(NOISE[:500_000])
        assert payload.send(one.fileno()) == 0
        while payload.left:
            taken += other.recv(100_000)
            payload.send(one.fileno())
        while len(taken) < total + 500_000:
            taken += other.recv(100_000)
        assert taken[total:] == NOISE[:500_000]


def test_a_slice_moves_as_far_as_there_is_room_and_the_rest_is_copied() -> None:
    payload, _ = lent(NOISE[:200_000])
    small = Pipe(4096)
    moved = payload.move(small)
    assert 0 < moved == small.size < 200_000
    assert small.read(moved) + bytes(payload) == NOISE[:200_000]


def test_drop_discards_the_rest_of_a_slice() -> None:
    payload, pipe = lent(b"payload", b"header")
    payload.drop()
    payload.drop()
    assert pipe.read(6) == b"header"


# PipeSegment and RetransmitPipe.


def test_a_segment_is_sent_from_its_own_pipe_and_retransmitted_from_the_other() -> None:
    (parcel,) = Stream().parcels(100_000)
    for _ in range(3):
        assert content(parcel) == NOISE[:100_000]


def test_a_segment_can_be_read_like_bytes() -> None:
    first, second = Stream().parcels(10, 20)
    assert copied(second) == NOISE[10:30]
    assert Piece(second, 5, 20).content == NOISE[15:30]
    assert Piece(first, 0, 10).content is first


def test_after_a_loss_segments_are_retransmitted_in_order_without_what_is_delivered() -> None:
    stream = Stream()
    first, second, third, _ = stream.parcels(300_000, 250_000, 1, 70_000)
    for parcel in (first, second, third):
        content(parcel)
    stream.keeper.release(200_000)
    assert content(first, 240_000) == NOISE[240_000:300_000]
    assert content(second) == NOISE[300_000:550_000]
    assert content(third) == NOISE[550_000:550_001]
    assert content(second, 100) == NOISE[300_100:550_000], "again: another lane was lost"


def test_gaps_between_lost_frames_are_left_out() -> None:
    """The frames between were sent on a lane that is up."""
    stream = Stream()
    sent = stream.parcels(*[50_000] * 10)
    for parcel in sent:
        content(parcel)
    for index in (1, 4, 9):
        assert content(sent[index]) == NOISE[50_000 * index : 50_000 * (index + 1)]


def test_bytes_delivered_during_a_retransmission_are_released() -> None:
    stream = Stream()
    sent = stream.parcels(*[50_000] * 4)
    for parcel in sent:
        content(parcel)
    assert content(sent[0]) == NOISE[:50_000]
    stream.keeper.release(100_000)
    assert content(sent[2]) == NOISE[100_000:150_000]
    later = stream.parcel(10_000)
    content(later)
    assert content(later) == NOISE[200_000:210_000]
    stream.keeper.release(210_000)
    assert stream.keeper._again is None, "nothing is left to retransmit"


def test_release_of_an_older_offset_is_ignored() -> None:
    stream = Stream()
    (parcel,) = stream.parcels(1000)
    stream.keeper.release(400)
    stream.keeper.release(300)
    content(parcel)
    assert content(parcel, 400) == NOISE[400:1000]
    assert (stream.keeper.start, stream.keeper.end) == (400, 1000)


def test_a_retransmit_pipe_keeps_no_more_than_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_payload, "MOST_KEPT", 256 * KIB)
    keeper, kept = RetransmitPipe(), 0
    keeper._pipe = Pipe(64 * KIB)
    while True:
        pipe = Pipe()
        os.write(pipe.sink, NOISE[kept : kept + 30_000])
        if not (count := keeper.keep(pipe, 30_000)):
            break
        kept += count
    assert 128 * KIB < kept <= 256 * KIB, "it has grown, as far as it may"
    keeper.release(kept - 10)
    assert keeper.keep(pipe, 30_000) == 30_000
    begin, load = keeper.again(kept - 10, kept)
    assert begin == kept - 10
    assert isinstance(load, Pipe)
    assert load.read(10) == NOISE[kept - 10 : kept]


@pytest.mark.parametrize("pipe", [small_pipe, no_pipe])
@pytest.mark.parametrize("which", ["take_pipe", "Pipe"], ids=["frame's", "copy's"])
def test_without_a_pipe_bytes_are_retransmitted_from_memory(
    pipe: Callable[..., Pipe], which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel makes pipes small for a user who has very many."""
    stream = Stream()
    first, second, third = stream.parcels(100_000, 70_000, 50_000)
    for parcel in (first, second, third):
        content(parcel)
    with monkeypatch.context() as scarce:
        scarce.setattr(kernel_payload, which, pipe)
        assert content(first) == NOISE[:100_000]
        stream.keeper.release(130_000)
        assert content(second, 30_000) == NOISE[130_000:170_000]
    fourth = stream.parcel(90_000)
    content(fourth)
    assert content(third) == NOISE[170_000:220_000]
    assert content(fourth) == NOISE[220_000:310_000]
    stream.keeper.release(310_000)
    assert content(stream.parcel(10)) == NOISE[310_000:310_010]
    assert (stream.keeper.start, stream.keeper.end) == (310_000, 310_010)


def test_delivered_bytes_are_not_retransmitted() -> None:
    """A frame may wait on its lane's thread while another lane receives the confirmation."""
    stream = Stream()
    first, second = stream.parcels(100_000, 100_000)
    content(first)
    content(second)
    stream.keeper.release(160_000)
    assert first.take(0, 100_000) == (100_000, b"")
    assert first.take(5, 70_000) == (70_000, b"")
    begin, load = second.take(20_000, 90_000)
    assert begin == 60_000
    assert isinstance(load, Pipe)
    assert load.read(30_000) == NOISE[160_000:190_000]
    with pytest.raises(OSError, match="bytes 0 to 60000 of a frame are delivered"):
        bytes(second)


def test_a_full_retransmit_pipe_has_room_again_after_relieve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_payload, "MOST_KEPT", 0)
    stream = Stream()
    stream.keeper._pipe = Pipe(64 * KIB)
    sent = stream.parcels(30_000, 30_000)
    for parcel in sent:
        content(parcel)
    pipe = Pipe()
    os.write(pipe.sink, NOISE[60_000:160_000])
    while stream.keeper.keep(pipe, 1):
        pipe.read(1)
    stream.keeper.relieve()
    behind = stream.keeper.end
    assert stream.keeper.keep(pipe, 50_000) == 50_000
    stream.keeper.release(10_000)
    assert content(sent[0], 10_000) == NOISE[10_000:30_000]
    assert stream.keeper.again(behind, behind + 50_000) == (behind, NOISE[behind : behind + 50_000])
    stream.keeper.release(behind + 50_000)
    assert not stream.keeper._memory


async def test_dropped_payload_causes_no_warnings() -> None:
    with unexpected() as surprises:
        stream = Stream()
        stream.parcels(10, 20)
        del stream
    assert not surprises

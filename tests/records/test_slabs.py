"""The buffer pool: never reused too early, and little memory pinned."""

from __future__ import annotations

import random
from collections import deque

import pytest

from tunnel.records import slabs
from tunnel.records.slabs import LEAST, MOST_SPARE, SIZE, ReadBuffers, give_back, take_slab

ENOUGH = 4 * LEAST


@pytest.fixture(autouse=True)
def spare(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """An empty pool for the test."""
    own: list[bytearray] = []
    monkeypatch.setattr(slabs, "_spare", own)
    return own


def read(intake: ReadBuffers, data: bytes, end: int, limit: int = SIZE) -> bytes | memoryview:
    """Read ``data`` into a room, as from a socket."""
    room = intake.room(limit)
    assert len(data) <= len(room) <= limit
    room[: len(data)] = data
    del room
    return intake.take(len(data), end)


def test_the_slab_released_last_is_used_first() -> None:
    taken = [take_slab() for _ in range(3)]
    assert [len(slab) for slab in taken] == [SIZE] * 3
    for slab in taken:
        give_back(slab)
    assert [take_slab() is slab for slab in reversed(taken)] == [True] * 3
    assert all(take_slab() is not slab for slab in taken), "each only once"


def test_a_slab_with_a_view_is_not_reused(spare: list[bytearray]) -> None:
    slab = take_slab()
    whole = memoryview(slab)
    part = whole[100:200]
    give_back(slab)
    whole.release()
    give_back(slab)
    assert spare == [], "a slice of a view counts"
    part.release()
    give_back(slab)
    assert spare == [slab]
    assert len(slab) == SIZE


def test_the_pool_is_bounded(spare: list[bytearray]) -> None:
    for slab in [take_slab() for _ in range(MOST_SPARE + 3)]:
        give_back(slab)
    assert len(spare) == MOST_SPARE


def test_reads_fill_a_slab_and_then_the_next() -> None:
    intake = ReadBuffers(ENOUGH)
    sizes = [ENOUGH, LEAST, SIZE - ENOUGH - LEAST - ENOUGH + 1, SIZE]
    pieces, end = [], 0
    for number, size in enumerate(sizes):
        end += size
        pieces.append(read(intake, bytes([number]) * size, end))
    assert [bytes(piece) for piece in pieces] == [bytes([number]) * size for number, size in enumerate(sizes)]
    first, *others = (piece.obj for piece in pieces if isinstance(piece, memoryview))
    assert [other is first for other in others] == [True, True, False], "there was too little room"


def test_room_is_limited_as_requested() -> None:
    intake = ReadBuffers(ENOUGH)
    assert len(intake.room(10)) == 10
    assert len(intake.room(SIZE)) == SIZE
    read(intake, bytes(SIZE - ENOUGH), SIZE - ENOUGH)
    assert len(intake.room(SIZE)) == ENOUGH


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_small_reads_are_copied_and_pin_nothing(spare: list[bytearray], count: int) -> None:
    intake = ReadBuffers(ENOUGH)
    piece = read(intake, bytes(count), count)
    assert piece == bytes(count)
    assert isinstance(piece, bytes)
    assert len(spare) == 1


def test_delivered_slabs_are_reused_and_no_others(spare: list[bytearray]) -> None:
    intake = ReadBuffers(ENOUGH)
    kept = [read(intake, bytes([number]) * SIZE, (number + 1) * SIZE) for number in range(4)]
    intake.release(2 * SIZE - 1)
    assert spare == [], "the first one still has a view"
    del kept[0]
    intake.release(2 * SIZE)
    kept.pop(0)
    assert spare == [], "the second had one too; both are left to Python"
    kept.pop(0)
    intake.release(3 * SIZE)
    assert len(spare) == 1
    assert bytes(kept[0]) == bytes([3]) * SIZE
    kept.clear()
    intake.release(4 * SIZE)
    assert len(spare) == 2
    assert not intake._slabs


def test_a_completely_delivered_stream_pins_nothing(spare: list[bytearray]) -> None:
    intake = ReadBuffers(ENOUGH)
    read(intake, bytes(LEAST), LEAST)
    read(intake, b"few", LEAST + 3)
    assert spare == []
    intake.release(LEAST)
    assert len(spare) == 1
    assert intake._slabs == deque()


@pytest.mark.parametrize("seed", range(20))
def test_kept_bytes_do_not_change_and_little_is_pinned(seed: int, spare: list[bytearray]) -> None:
    """Like a stream: read, keep, and drop what is delivered, with a lane that keeps some views longer."""
    some = random.Random(seed)
    intake = ReadBuffers(ENOUGH)
    kept: deque[tuple[int, bytes | memoryview, bytes]] = deque()
    late: deque[memoryview] = deque(maxlen=2)
    end = 0
    for _ in range(300):
        data = some.randbytes(16) * (
            some.choice([1, 100, LEAST, LEAST + 16, 5 * LEAST, 12 * LEAST]) // 16 + 1
        )
        data = data[: len(intake.room(SIZE))]
        end += len(data)
        piece = read(intake, data, end)
        kept.append((end, piece, data[:16]))
        if some.random() < 0.1:
            late.append(memoryview(piece)[:100])
        if some.random() < 0.4:
            offset = 0
            for _ in range(some.randrange(len(kept) + 1)):
                offset = kept.popleft()[0]
            intake.release(offset)
        assert all(bytes(piece[:16]) == start for _, piece, start in kept)
        held = sum(len(piece) for _, piece, _ in kept if isinstance(piece, memoryview))
        assert len(intake._slabs) * SIZE <= held * SIZE / (SIZE - ENOUGH) + 2 * SIZE
    assert len(spare) <= MOST_SPARE


def read_many(intake: ReadBuffers, data: bytes, end: int, limit: int) -> tuple[int, list[bytes | memoryview]]:
    """Read ``data`` into rooms, as a lane does; return the number of rooms, and the pieces."""
    rooms, left = intake.rooms(limit), memoryview(data)
    number = len(rooms)
    assert sum(map(len, rooms)) <= limit
    for index in range(number):
        part = left[: len(rooms[index])]
        rooms[index][: len(part)] = part
        left = left[len(part) :]
    del rooms
    return number, intake.pieces(len(data) - len(left), end - len(left))


def test_bulk_gets_more_rooms_than_one_and_each_slab_is_a_piece(spare: list[bytearray]) -> None:
    intake, data = ReadBuffers(ENOUGH), random.Random(3).randbytes(3 * SIZE)
    number, first = read_many(intake, data[:ENOUGH], ENOUGH, 4 * SIZE)
    assert number == 1, "the amount is not known yet"
    number, rest = read_many(intake, data[ENOUGH:], len(data), 4 * SIZE)
    assert number == 5
    assert [len(piece) for piece in rest] == [SIZE - ENOUGH, SIZE, SIZE]
    assert b"".join([*first, *rest]) == data
    assert len(spare) == 2, "unused slabs are returned"
    del first, rest
    intake.release(len(data))
    assert len(spare) == 5


def test_an_empty_read_makes_no_piece(spare: list[bytearray]) -> None:
    intake = ReadBuffers(ENOUGH)
    assert read_many(intake, b"", 0, SIZE) == (1, [])
    assert read_many(intake, b"crumb", 5, SIZE) == (1, [b"crumb"])
    intake.release(5)
    assert len(spare) == 1

"""A stream's bytes in order, however they arrived."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.wire.payload import Piece
from tunnel.wire.reassembly import PAGE, ReassemblyBuffer

UNIT = PAGE
"""Pieces of so many bytes are held whole; smaller ones are collected in pages."""

STREAM = random.Random(5).randbytes(400)
LONG = random.Random(6).randbytes(40 * UNIT)


def insert(assembly: ReassemblyBuffer, start: int, stop: int) -> bytes:
    """Insert bytes ``start`` to ``stop`` of STREAM; return what is in order now."""
    return b"".join(text(piece) for piece in assembly.insert(start, STREAM[start:stop]))


def text(piece: Piece) -> bytes:
    assert isinstance(piece.payload, bytes)
    assert len(piece) > 0
    return piece.payload[piece.start : piece.stop]


def insert_units(assembly: ReassemblyBuffer, start: int, stop: int) -> bytes:
    """The same with units of LONG."""
    pieces = assembly.insert(start * UNIT, LONG[start * UNIT : stop * UNIT])
    return b"".join(text(piece) for piece in pieces)


def held(assembly: ReassemblyBuffer) -> list[tuple[int, int]]:
    """Return the pieces that are held whole, in units."""
    return [(start // UNIT, end // UNIT) for start, end, _ in assembly._held]


def test_bytes_in_order() -> None:
    assembly = ReassemblyBuffer()
    assert insert(assembly, 0, 10) == STREAM[:10]
    assert insert(assembly, 10, 30) == STREAM[10:30]
    assert (assembly.received, assembly.highest, assembly.held) == (30, 30, 0)


def test_a_gap_is_waited_for() -> None:
    assembly = ReassemblyBuffer()
    assert insert(assembly, 20, 30) == b""
    assert insert(assembly, 10, 20) == b""
    assert (assembly.received, assembly.highest, assembly.held) == (0, 30, PAGE)
    assert insert(assembly, 0, 10) == STREAM[:30]
    assert (assembly.received, assembly.highest, assembly.held) == (30, 30, 0)


def test_a_gap_of_pages_is_waited_for() -> None:
    assembly = ReassemblyBuffer()
    assert insert_units(assembly, 20, 30) == b""
    assert insert_units(assembly, 10, 20) == b""
    assert (assembly.received, assembly.highest, assembly.held) == (0, 30 * UNIT, 20 * UNIT)
    assert insert_units(assembly, 0, 10) == LONG[: 30 * UNIT]
    assert (assembly.received, assembly.highest, assembly.held) == (30 * UNIT, 30 * UNIT, 0)


def test_only_up_to_the_next_gap() -> None:
    assembly = ReassemblyBuffer()
    insert(assembly, 5, 6)
    insert(assembly, 8, 9)
    assert insert(assembly, 0, 5) == STREAM[:6]
    assert insert(assembly, 6, 8) == STREAM[6:9]


def test_large_and_small_pieces_wait_together() -> None:
    """Beside each other, over each other, and across the bounds of pages."""
    assembly = ReassemblyBuffer()
    cuts = [
        (UNIT - 5, UNIT + 5),
        (UNIT + 5, 3 * UNIT + 1),
        (2 * UNIT, 2 * UNIT + 9),
        (3 * UNIT + 1, 3 * UNIT + 2),
    ]
    for start, stop in cuts:
        assert assembly.insert(start, LONG[start:stop]) == []
    assert b"".join(map(text, assembly.insert(0, LONG[: UNIT - 5]))) == LONG[: 3 * UNIT + 2]
    assert assembly.held == 0


def test_early_data_is_copied() -> None:
    assembly, memory = ReassemblyBuffer(), bytearray(STREAM)
    assembly.insert(10, memoryview(memory)[10:20])
    memory[:] = bytes(len(memory))
    assert insert(assembly, 0, 10) == STREAM[:20]


def test_a_duplicate_is_dropped() -> None:
    assembly = ReassemblyBuffer()
    insert(assembly, 0, 10)
    assert insert(assembly, 0, 10) == b""
    assert insert(assembly, 3, 7) == b""
    assert assembly.received == 10


def test_only_new_bytes_of_a_replay() -> None:
    assembly = ReassemblyBuffer()
    insert(assembly, 0, 10)
    (piece,) = assembly.insert(4, STREAM[4:16])
    assert (piece.start, piece.stop) == (6, 12)
    assert text(piece) == STREAM[10:16]


def test_payload_need_not_be_bytes() -> None:
    assembly, promise = ReassemblyBuffer(), range(10)
    assert assembly.insert(0, promise) == [Piece(promise, 0, 10)]


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        ([(10, 20), (10, 20)], [(10, 20)]),  # the same
        ([(10, 20), (12, 18)], [(10, 20)]),  # inside
        ([(10, 20), (10, 15)], [(10, 20)]),
        ([(10, 20), (15, 20)], [(10, 20)]),
        ([(12, 18), (10, 20)], [(10, 20)]),  # around
        ([(12, 14), (14, 15), (16, 18), (10, 20)], [(10, 20)]),
        ([(10, 20), (30, 40), (15, 35)], [(10, 20), (15, 35), (30, 40)]),  # across
        ([(10, 20), (20, 30), (15, 25)], [(10, 20), (20, 30)]),  # covered by two
        ([(10, 20), (15, 25), (20, 30)], [(10, 20), (20, 30)]),  # made redundant
        ([(20, 30), (15, 25), (10, 20)], [(10, 20), (20, 30)]),
        ([(10, 20), (18, 28), (26, 36), (19, 27)], [(10, 20), (18, 28), (26, 36)]),
        ([(10, 20), (12, 22), (11, 21)], [(10, 20), (12, 22)]),
    ],
)
def test_no_redundant_piece_is_held(pieces: list[tuple[int, int]], kept: list[tuple[int, int]]) -> None:
    assembly = ReassemblyBuffer()
    for start, stop in pieces:
        insert_units(assembly, start, stop)
    assert held(assembly) == kept


each_piece = st.tuples(st.integers(0, 399), st.integers(1, 60)).map(lambda p: (p[0], min(400, sum(p))))


@given(st.lists(each_piece, max_size=60), st.integers(1, 80), st.sampled_from([1, 30, PAGE]))
def test_any_pieces_in_any_order_give_every_byte_once(
    pieces: list[tuple[int, int]], size: int, unit: int
) -> None:
    """``unit`` makes small pieces, large ones, and both across pages of them."""
    assembly, seen, out = ReassemblyBuffer(), set[int](), 0
    stream = LONG[:PAGE] * (400 * unit // PAGE + 1)
    for start, stop in [*pieces, *((at, min(400, at + size)) for at in range(0, 400, size))]:
        seen.update(range(start, stop))
        for piece in assembly.insert(start * unit, stream[start * unit : stop * unit]):
            assert text(piece) == stream[out : out + len(piece)]
            out += len(piece)
        assert out == assembly.received
        assert assembly.received == next(at for at in range(401) if at not in seen) * unit
        assert assembly.highest == (max(seen) + 1) * unit
        check_held(assembly, unit)
    assert out == 400 * unit
    assert assembly.held == 0


def check_held(assembly: ReassemblyBuffer, unit: int) -> None:
    """No byte is held more than twice in pieces, and no page is kept without early bytes."""
    times = [0] * 401
    for start, stop, _ in assembly._held:
        for at in range(start // unit, stop // unit):
            times[at] += 1
    assert max(times) <= 2
    for page in assembly._pages:
        assert assembly.received // PAGE <= page <= assembly.highest // PAGE


def test_overlapping_pieces_do_not_add_up() -> None:
    """Each shifted by one byte, none inside another: keeping all of them took 1 MiB per byte."""
    assembly = ReassemblyBuffer()
    for shift in range(1, 300):
        assembly.insert(shift, LONG[: 2 * PAGE])
    assert assembly.held <= 2 * 3 * PAGE
    assert len(assembly._held) <= 8


def test_small_pieces_cost_no_more_than_the_bytes_that_they_lie_in() -> None:
    """Every second byte of a window: an object for each took 200 times as much."""
    assembly, window = ReassemblyBuffer(), 64 * PAGE
    tracemalloc.start()
    for offset in range(1, window, 2):
        assembly.insert(offset, b"x")
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert window <= grown < 1.5 * window
    assert assembly.held == window
    for offset in range(0, window, 2):
        assembly.insert(offset, b"y")
    assert (assembly.received, assembly.held) == (window, 0)

"""A stream's bytes in order, whatever way they came."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.wire.assembly import Assembly, Piece

STREAM = random.Random(5).randbytes(400)


def insert(assembly: Assembly, start: int, stop: int) -> bytes:
    """Let bytes ``start`` to ``stop`` of STREAM arrive; what is in order now."""
    return b"".join(text(piece) for piece in assembly.insert(start, STREAM[start:stop]))


def text(piece: Piece) -> bytes:
    assert isinstance(piece.payload, bytes)
    assert len(piece) > 0
    return piece.payload[piece.start : piece.stop]


def held(assembly: Assembly) -> list[tuple[int, int]]:
    return [(start, end) for start, end, _ in assembly._held]


def test_in_order_at_once() -> None:
    assembly = Assembly()
    assert insert(assembly, 0, 10) == STREAM[:10]
    assert insert(assembly, 10, 30) == STREAM[10:30]
    assert (assembly.received, assembly.highest, assembly.held) == (30, 30, 0)


def test_a_gap_is_waited_for() -> None:
    assembly = Assembly()
    assert insert(assembly, 20, 30) == b""
    assert insert(assembly, 10, 20) == b""
    assert (assembly.received, assembly.highest, assembly.held) == (0, 30, 2)
    assert insert(assembly, 0, 10) == STREAM[:30]
    assert (assembly.received, assembly.highest, assembly.held) == (30, 30, 0)


def test_only_up_to_the_next_gap() -> None:
    assembly = Assembly()
    insert(assembly, 5, 6)
    insert(assembly, 8, 9)
    assert insert(assembly, 0, 5) == STREAM[:6]
    assert held(assembly) == [(8, 9)]


def test_a_duplicate_says_nothing() -> None:
    assembly = Assembly()
    insert(assembly, 0, 10)
    assert insert(assembly, 0, 10) == b""
    assert insert(assembly, 3, 7) == b""
    assert assembly.received == 10


def test_of_a_replay_only_what_is_new() -> None:
    assembly = Assembly()
    insert(assembly, 0, 10)
    (piece,) = assembly.insert(4, STREAM[4:16])
    assert (piece.start, piece.stop) == (6, 12)
    assert text(piece) == STREAM[10:16]


def test_payload_need_not_be_bytes() -> None:
    assembly, promise = Assembly(), range(10)
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
        ([(10, 20), (15, 25), (20, 30)], [(10, 20), (20, 30)]),  # made needless
        ([(20, 30), (15, 25), (10, 20)], [(10, 20), (20, 30)]),
        ([(10, 20), (18, 28), (26, 36), (19, 27)], [(10, 20), (18, 28), (26, 36)]),
        ([(10, 20), (12, 22), (11, 21)], [(10, 20), (12, 22)]),
    ],
)
def test_nothing_needless_is_held(pieces: list[tuple[int, int]], kept: list[tuple[int, int]]) -> None:
    assembly = Assembly()
    for start, stop in pieces:
        insert(assembly, start, stop)
    assert held(assembly) == kept


each_piece = st.tuples(st.integers(0, 399), st.integers(1, 60)).map(lambda p: (p[0], min(400, sum(p))))


@given(st.lists(each_piece, max_size=60), st.integers(1, 80))
def test_any_pieces_in_any_order_give_every_byte_once(pieces: list[tuple[int, int]], size: int) -> None:
    assembly, seen, out = Assembly(), set[int](), b""
    for start, stop in [*pieces, *((at, min(400, at + size)) for at in range(0, 400, size))]:
        seen.update(range(start, stop))
        out += insert(assembly, start, stop)
        assert out == STREAM[: assembly.received]
        assert assembly.received == next(at for at in range(401) if at not in seen)
        assert assembly.highest == max(seen) + 1
        check_held(assembly, seen)
    assert out == STREAM
    assert held(assembly) == []


def check_held(assembly: Assembly, seen: set[int]) -> None:
    """All that is seen and not in order is held, no byte of it more than twice."""
    times = [0] * 401
    for start, stop in held(assembly):
        for at in range(start, stop):
            times[at] += 1
    assert {at for at in range(401) if times[at]} == {at for at in seen if at >= assembly.received}
    assert max(times) <= 2


def test_overlapping_slivers_do_not_add_up() -> None:
    """Each shifted by one byte, none inside another: all of them were kept once, 1 MiB for every byte."""
    assembly = Assembly()
    for shift in range(1, 300):
        assembly.insert(shift, range(100))
    assert sum(stop - start for start, stop in held(assembly)) <= 2 * 400
    assert assembly.held <= 8

"""Payload as lanes carry it: in memory, lent or owned."""

from __future__ import annotations

from tunnel.transport.lane import own, view
from tunnel.wire.assembly import Piece


def test_a_piece_is_seen_where_it_lies() -> None:
    assert bytes(view(Piece(b"0123456789", 3, 7))) == b"3456"


def test_what_is_owned_outlives_the_memory_it_came_in() -> None:
    memory = bytearray(b"guest RAM")
    owned = own(memoryview(memory))
    memory[:] = bytes(len(memory))
    assert owned == b"guest RAM"

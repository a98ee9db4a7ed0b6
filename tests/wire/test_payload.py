"""Payload of any kind: bytes, views of bytes, and promises of bytes."""

from __future__ import annotations

import pytest

from tunnel.wire.payload import Piece, copied, in_memory


class Promise:
    """Bytes that lie elsewhere until somebody asks for them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked = 0

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice) -> Promise:
        return Promise(self._data[part])

    def __bytes__(self) -> bytes:
        self.asked += 1
        return self._data


def test_a_copy_is_not_changed_by_what_becomes_of_its_memory() -> None:
    memory = bytearray(b"lent")
    copy = copied(memoryview(memory))
    memory[:] = b"used"
    assert copy == b"lent"


@pytest.mark.parametrize("payload", [b"here", memoryview(b"here")])
def test_what_is_in_memory_is_not_copied(payload: bytes | memoryview) -> None:
    assert in_memory(payload) is payload


def test_what_is_elsewhere_is_fetched_only_then() -> None:
    promise = Promise(b"0123456789")
    whole, part = Piece(promise, 0, 10), Piece(promise, 3, 7)
    assert (len(whole), len(part)) == (10, 4)
    assert whole.content is promise
    assert promise.asked == 0
    assert in_memory(whole.content) == b"0123456789"
    assert in_memory(part.content) == b"3456"

"""Payload of any kind: bytes, views of bytes, and references to bytes elsewhere."""

from __future__ import annotations

import pytest

from tunnel.wire.payload import Piece, copied, in_memory


class Promise:
    """Bytes that are elsewhere until they are fetched."""

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


def test_a_copy_does_not_change_with_its_source() -> None:
    memory = bytearray(b"lent")
    copy = copied(memoryview(memory))
    memory[:] = b"used"
    assert copy == b"lent"


@pytest.mark.parametrize("payload", [b"here", memoryview(b"here")])
def test_bytes_in_memory_are_not_copied(payload: bytes | memoryview) -> None:
    assert in_memory(payload) is payload


def test_bytes_elsewhere_are_fetched_on_demand() -> None:
    promise = Promise(b"0123456789")
    whole, part = Piece(promise, 0, 10), Piece(promise, 3, 7)
    assert (len(whole), len(part)) == (10, 4)
    assert whole.content is promise
    assert promise.asked == 0
    assert in_memory(whole.content) == b"0123456789"
    assert in_memory(part.content) == b"3456"

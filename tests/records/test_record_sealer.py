"""Sealing records: as in RFC 8448, no number twice, without changing the memory of the content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.rfc8448 import CLIENT, CLIENT_CLOSE, CLIENT_DATA, CONTENT, SERVER, SERVER_CLOSE, SUITE
from tunnel.errors import LaneError
from tunnel.records.key_schedule import SUITES, Direction, key_and_iv, next_secret
from tunnel.records.record_sealer import Content, RecordSealer, sealed_size
from tunnel.records.tls_messages import (
    ALERT,
    CLOSE_NOTIFY,
    DATA,
    HANDSHAKE,
    HEADER,
    KEY_UPDATE,
    OVERHEAD,
    RECORD,
    count_records,
)

SECRET = bytes(range(48))
GCM_256 = "TLS_AES_256_GCM_SHA384"

Sizes = some.lists(
    some.sampled_from([0, 1, 20, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD, 40_000]), max_size=5
)


def sealed(sealer: RecordSealer, pieces: Sequence[Content]) -> bytes:
    """Return what the sealer writes; check that it writes nothing else."""
    out = bytearray(b"\xee" * (sum(sealed_size(len(piece)) for piece in pieces) + 7))
    size = sealer.seal(pieces, memoryview(out))
    assert out[size:] == b"\xee" * 7
    return bytes(out[:size])


def decrypted(records: bytes, cipher: str = GCM_256, secret: bytes = SECRET, first: int = 0) -> list[bytes]:
    """Decrypt records, independently of the product's code."""
    key, iv = key_and_iv(cipher, secret)
    aead, position = SUITES[cipher].aead(key), 0
    insides: list[bytes] = []
    while position < len(records):
        header = records[position : position + HEADER]
        end = position + HEADER + int.from_bytes(header[3:])
        nonce = (int.from_bytes(iv) ^ first + len(insides)).to_bytes(12)
        insides.append(aead.decrypt(nonce, records[position + HEADER : end], header))
        position = end
    return insides


def test_the_records_of_the_rfcs_trace() -> None:
    client = RecordSealer(SUITE, Direction(CLIENT, 0))
    assert sealed(client, [CONTENT]) == CLIENT_DATA
    assert client.record(ALERT, CLOSE_NOTIFY) == CLIENT_CLOSE
    assert RecordSealer(SUITE, Direction(SERVER, 2)).record(ALERT, CLOSE_NOTIFY) == SERVER_CLOSE


@pytest.mark.parametrize("cipher", SUITES)
@given(sizes=Sizes, first=some.sampled_from([0, 1, 255, (1 << 24) - 9]), readonly=some.booleans())
def test_pieces_of_any_size_become_records(cipher: str, sizes: list[int], first: int, readonly: bool) -> None:
    secret = SECRET[: SUITES[cipher].hash.digest_size]
    memory = [bytearray(bytes([number + 1]) * size) for number, size in enumerate(sizes)]
    pieces: list[Content] = [bytes(each) if readonly else memoryview(each) for each in memory]
    before = [bytes(each) for each in memory]
    sealer = RecordSealer(cipher, Direction(secret, first))
    records = sealed(sealer, pieces)
    assert [bytes(each) for each in memory] == before, "memory is unchanged"
    assert len(records) == sum(map(sealed_size, sizes))
    insides = decrypted(records, cipher, secret, first)
    expected = [
        piece[start : start + RECORD] + bytes([DATA])
        for piece in before
        for start in range(0, len(piece), RECORD)
    ]
    assert insides == expected
    assert sealer.records == first + len(insides) == first + count_records(records)


def test_a_part_of_a_piece_leaves_the_following_bytes_unchanged() -> None:
    memory = bytearray(range(256)) * 256
    before = bytes(memory)
    sealer = RecordSealer(GCM_256, Direction(SECRET, 0))
    part = memoryview(memory)[1000 : 1000 + 2 * RECORD]
    insides = decrypted(sealed(sealer, [part]))
    assert [len(inside) for inside in insides] == [RECORD + 1] * 2
    assert b"".join(inside[:-1] for inside in insides) == before[1000 : 1000 + 2 * RECORD]
    assert memory == before


def test_records_that_do_not_fit_take_no_numbers() -> None:
    sealer = RecordSealer(GCM_256, Direction(SECRET, 0))
    with pytest.raises(ValueError, match="do not fit into 21 bytes"):
        sealer.seal([b""] * 3 + [b"x"], memoryview(bytearray(OVERHEAD - 1)))
    assert sealer.records == 0


class Failing:
    """Fails after ``patience`` records, and notes every nonce."""

    def __init__(self, patience: int) -> None:
        self.left = patience
        self.nonces: list[bytes] = []

    def encrypt_into(self, nonce: bytes, *_: object) -> None:
        self._count(nonce)

    def encrypt(self, nonce: bytes, *_: object) -> bytes:
        self._count(nonce)
        return b""

    def _count(self, nonce: bytes) -> None:
        self.nonces.append(nonce)
        self.left -= 1
        if self.left < 0:
            raise MemoryError


@pytest.mark.parametrize("patience", range(6))
def test_no_number_is_used_twice_whatever_raises(patience: int) -> None:
    sealer: Any = RecordSealer(GCM_256, Direction(SECRET, 0))
    sealer._aead = failing = Failing(patience)
    memory = bytearray(b"\xaa" * 3 * RECORD)
    out = memoryview(bytearray(1 << 20))
    with pytest.raises(MemoryError):
        sealer.seal([memoryview(memory), b"and", memoryview(memory)], out)
    assert memory == b"\xaa" * 3 * RECORD
    failing.left = 100
    sealer.seal([memoryview(memory)], out)
    sealer.record(ALERT, CLOSE_NOTIFY)
    assert len(set(failing.nonces)) == len(failing.nonces) == patience + 1 + 3 + 1


@pytest.mark.parametrize("content", [b"", b"x", bytes(RECORD)], ids=len)
def test_a_record_of_any_type(content: bytes) -> None:
    sealer = RecordSealer(GCM_256, Direction(SECRET, 7))
    assert decrypted(sealer.record(99, content), first=7) == [content + bytes([99])]
    assert sealer.records == 8


@pytest.mark.parametrize("asking", [False, True])
def test_a_key_update_uses_the_old_key_and_everything_after_it_the_next(asking: bool) -> None:
    sealer = RecordSealer(GCM_256, Direction(SECRET, 5))
    update = sealer.update(asking=asking)
    assert decrypted(update, first=5) == [bytes([KEY_UPDATE, 0, 0, 1, asking, HANDSHAKE])]
    assert sealer.records == 0
    behind = sealed(sealer, [b"one", b"two"])
    assert decrypted(behind, secret=next_secret(GCM_256, SECRET)) == [b"one\x17", b"two\x17"]


def test_the_key_limit_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    most = SUITES[GCM_256].most_records
    sealer = RecordSealer(GCM_256, Direction(SECRET, most - 3))
    out = memoryview(bytearray(1 << 17))
    with pytest.raises(LaneError, match="TLS key limit reached"):
        sealer.seal([bytes(4 * RECORD)], out)
    sealer.seal([bytes(3 * RECORD)], out)
    for refused in (
        lambda: sealer.seal([b"x"], out),
        lambda: sealer.record(ALERT, CLOSE_NOTIFY),
        sealer.update,
    ):
        with pytest.raises(LaneError, match=f"has protected {most} records"):
            refused()

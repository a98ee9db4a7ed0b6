"""The compiled engine makes the same records as Python, and refuses the same invalid ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.compiled_engine import compiled_engine
from tests.support.rfc8448 import CLIENT, CLIENT_CLOSE, CLIENT_DATA, CONTENT, SUITE
from tunnel.errors import LaneError
from tunnel.records.compiled_records import CompiledRecordOpener, CompiledRecordSealer
from tunnel.records.key_schedule import SUITES, Direction
from tunnel.records.record_opener import NonDataRecord, RecordOpener, RecordViolation
from tunnel.records.record_sealer import RecordSealer, sealed_size
from tunnel.records.tls_messages import ALERT, CLOSE_NOTIFY, DATA, RECORD

ENGINE = compiled_engine()
SUITE_256 = "TLS_AES_256_GCM_SHA384"
SECRET = bytes(range(48))
Found = NonDataRecord | RecordViolation | None


def start(cipher: str = SUITE_256, records: int = 0) -> Direction:
    return Direction(SECRET[: SUITES[cipher].hash.digest_size], records)


def sealed(sealer: RecordSealer, *pieces: bytes) -> bytes:
    out = bytearray(sum(sealed_size(len(piece)) for piece in pieces))
    return bytes(out[: sealer.seal(pieces, memoryview(out))])


def opened(opener: RecordOpener, cipher: bytes) -> tuple[int, bytes, Found]:
    plain = bytearray(len(cipher))
    taken, filled, found = opener.open(memoryview(cipher), len(cipher), memoryview(plain))
    return taken, bytes(plain[:filled]), found


def test_the_records_of_the_rfcs_trace() -> None:
    client = CompiledRecordSealer(SUITE, Direction(CLIENT, 0), ENGINE)
    assert sealed(client, CONTENT) == CLIENT_DATA
    assert client.record(ALERT, CLOSE_NOTIFY) == CLIENT_CLOSE
    assert client.records == 2


@given(
    cipher=some.sampled_from(list(SUITES)),
    sizes=some.lists(some.sampled_from([1, 20, RECORD - 1, RECORD, RECORD + 1, 40_000]), max_size=4),
    first=some.sampled_from([0, 7, 1 << 20]),
)
def test_python_and_the_engine_open_each_others_records(cipher: str, sizes: list[int], first: int) -> None:
    pieces = [bytes([size % 251]) * size for size in sizes]
    direction = start(cipher, first)
    records = sealed(CompiledRecordSealer(cipher, direction, ENGINE), *pieces)
    assert opened(RecordOpener(cipher, direction), records) == (len(records), b"".join(pieces), None)
    records = sealed(RecordSealer(cipher, direction), *pieces)
    theirs = CompiledRecordOpener(cipher, direction, ENGINE)
    assert opened(theirs, records) == (len(records), b"".join(pieces), None)
    assert theirs.records == first + sum(-(-size // RECORD) for size in sizes)


def test_keys_are_updated_on_both_sides() -> None:
    sealer = CompiledRecordSealer(SUITE_256, start(records=5), ENGINE)
    opener = CompiledRecordOpener(SUITE_256, start(records=5), ENGINE)
    update = sealer.update()
    assert sealer.records == 0
    assert opened(opener, update)[2] is not None
    opener.update()
    assert opened(opener, sealed(sealer, b"new"))[1] == b"new"
    assert opener.records == sealer.records == 1


@pytest.mark.parametrize("spoil", ["tag", "type", "length", "short", "padding", "long"])
def test_an_invalid_record_is_refused_with_the_same_alert(spoil: str) -> None:
    sealer = RecordSealer(SUITE_256, start())
    good, bad = sealed(sealer, b"good"), bytearray(sealer.record(DATA, b"bad"))
    if spoil == "tag":
        bad[-1] ^= 1
    elif spoil == "type":
        bad[0] = 22
    elif spoil == "length":
        bad[3] = 0xFF
    elif spoil == "short":
        bad[3:5] = b"\0\x10"
    elif spoil == "padding":
        bad = bytearray(RecordSealer(SUITE_256, start(records=1)).record(0, bytes(9)))
    else:
        bad = bytearray(RecordSealer(SUITE_256, start(records=1)).record(DATA, bytes(RECORD + 1)))
    cipher = good + bytes(bad)
    python = opened(RecordOpener(SUITE_256, start()), cipher)
    compiled = opened(CompiledRecordOpener(SUITE_256, start(), ENGINE), cipher)
    assert isinstance(python[2], RecordViolation)
    assert isinstance(compiled[2], RecordViolation)
    assert compiled[1] == python[1] == b"good"
    assert compiled[2].alert == python[2].alert


def test_the_key_limit_is_enforced() -> None:
    most = SUITES[SUITE_256].most_records
    sealer = CompiledRecordSealer(SUITE_256, start(records=most - 1), ENGINE)
    with pytest.raises(LaneError):
        sealed(sealer, bytes(RECORD + 1))
    assert sealed(sealer, b"last")
    with pytest.raises(LaneError):
        sealed(sealer, b"one more")
    assert sealer.records == most

"""Records by the compiled library: as RFC 8446 prescribes, and errors for invalid ones."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence

import pytest

from tests.support import engine_cases
from tests.support.reference_records import ReferenceRecords, Secret
from tunnel.engine.binding import SUITES, Provider
from tunnel.engine.compiled import (
    ALERT,
    BAD_RECORD_MAC,
    DATA,
    HANDSHAKE,
    INTERNAL_ERROR,
    MOST_BYTES,
    NO_LIMIT,
    OVERHEAD,
    RECORD,
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
    Bytes,
    CompiledOpener,
    CompiledSealer,
    Control,
    EngineError,
    Fault,
    sealed_size,
)

SECRET = Secret(SUITES[0], bytes(range(32)), bytes(range(12)))


def seal(sealer: CompiledSealer, *pieces: Bytes, kind: int = DATA) -> bytes:
    out = bytearray(sealed_size(sum(map(len, pieces))))
    count = sealer.seal(pieces, out, kind)
    assert count == len(out)
    return bytes(out)


def open_all(opener: CompiledOpener, cipher: bytes) -> tuple[int, bytes, Control | Fault | None]:
    plain = bytearray(len(cipher) + RECORD + 256)
    used, filled, event = opener.open(cipher, len(cipher), plain)
    return used, bytes(plain[:filled]), event


@pytest.mark.parametrize("seed", range(0, 1000, 100))
def test_it_agrees_with_the_reference(provider: Provider, seed: int) -> None:
    engine_cases.check(provider, seed, 100)


@pytest.mark.parametrize("suite", SUITES)
def test_content_spans_pieces_and_records(provider: Provider, suite: str) -> None:
    key, iv = bytes(16 if "AES_128" in suite else 32), bytes(12)
    content = random.Random(7).randbytes(3 * RECORD + 5)
    cuts = (0, 1, 20, RECORD - 1, RECORD, 2 * RECORD + 3, len(content))
    pieces = [content[start:end] for start, end in itertools.pairwise(cuts)]
    cipher = seal(CompiledSealer(provider, suite, key, iv), *pieces)
    assert len(cipher) == len(content) + 4 * OVERHEAD
    opener = CompiledOpener(provider, suite, key, iv)
    assert open_all(opener, cipher) == (len(cipher), content, None)
    assert opener.number == 4


def test_no_content_is_no_record(libcrypto: Provider) -> None:
    sealer = CompiledSealer(libcrypto, *SECRET)
    assert sealer.seal([], bytearray(1)) == sealer.seal([b"", b""], bytearray(1)) == 0
    assert sealer.number == 0


@pytest.mark.parametrize("kind", [ALERT, HANDSHAKE])
def test_a_record_that_is_not_data_stops_opening(provider: Provider, kind: int) -> None:
    sealer, opener = CompiledSealer(provider, *SECRET), CompiledOpener(provider, *SECRET)
    first, second, third = (
        seal(sealer, b"before"),
        seal(sealer, b"\x01\x00", kind=kind),
        seal(sealer, b"behind"),
    )
    cipher = first + second + third
    used, content, event = open_all(opener, cipher)
    assert (used, content, event) == (len(first + second), b"before", Control(kind, b"\x01\x00"))
    assert open_all(opener, cipher[used:]) == (len(third), b"behind", None)


def test_an_incomplete_record_is_not_consumed(libcrypto: Provider) -> None:
    sealer, opener = CompiledSealer(libcrypto, *SECRET), CompiledOpener(libcrypto, *SECRET)
    first, second = seal(sealer, b"first"), seal(sealer, b"second")
    for size in range(len(second)):
        cipher = (first if size == 0 else b"") + second[:size]
        used, content, event = open_all(opener, cipher)
        assert (used, content, event) == ((len(first), b"first", None) if size == 0 else (0, b"", None))
    assert open_all(opener, second) == (len(second), b"second", None)


def test_only_received_bytes_are_read(libcrypto: Provider) -> None:
    cipher = seal(CompiledSealer(libcrypto, *SECRET), b"content")
    opener, plain = CompiledOpener(libcrypto, *SECRET), bytearray(RECORD)
    assert opener.open(cipher, len(cipher) - 1, plain) == (0, 0, None)
    assert opener.open(memoryview(cipher), len(cipher), plain) == (len(cipher), 7, None)
    with pytest.raises(ValueError, match="of 10"):
        opener.open(bytes(10), 11, plain)


FAULTS = [
    pytest.param(b"\x16\x03\x03\x00\x20" + bytes(32), UNEXPECTED_MESSAGE, id="in the clear"),
    pytest.param(b"\x17\x03\x03\x41\x01", RECORD_OVERFLOW, id="too long, only its header received"),
    pytest.param(b"\x17\x03\x03\x00\x10" + bytes(16), BAD_RECORD_MAC, id="no room for a type"),
    pytest.param(b"\x17\x03\x03\x00\x00", BAD_RECORD_MAC, id="empty"),
    pytest.param(b"\x17\x03\x03\x00\x20" + bytes(32), BAD_RECORD_MAC, id="of another key"),
]


@pytest.mark.parametrize(("bad", "alert"), FAULTS)
def test_data_before_a_fault_is_valid_and_nothing_follows_it(
    provider: Provider, bad: bytes, alert: int
) -> None:
    good = seal(CompiledSealer(provider, *SECRET), b"good")
    opener = CompiledOpener(provider, *SECRET)
    used, content, event = open_all(opener, good + bad)
    assert (used, content) == (len(good), b"good")
    assert isinstance(event, Fault)
    assert event.alert == alert
    assert opener.number == 1
    assert open_all(opener, good) == (0, b"", event)


@pytest.mark.parametrize(
    ("inner", "alert"),
    [
        (bytes(1), UNEXPECTED_MESSAGE),
        (bytes(RECORD), UNEXPECTED_MESSAGE),
        (bytes(RECORD + 1) + bytes([DATA]), RECORD_OVERFLOW),
        (bytes(RECORD + 1) + bytes([HANDSHAKE, 0, 0]), RECORD_OVERFLOW),
    ],
)
def test_invalid_inner_plaintexts(provider: Provider, inner: bytes, alert: int) -> None:
    used, content, event = open_all(
        CompiledOpener(provider, *SECRET), ReferenceRecords(SECRET).protect(inner)
    )
    assert (used, content) == (0, b"")
    assert isinstance(event, Fault)
    assert event.alert == alert


def test_every_bit_of_a_record_is_authenticated(provider: Provider) -> None:
    cipher = seal(CompiledSealer(provider, *SECRET), b"content of a record")
    for bit in range(8 * len(cipher)):
        changed = bytearray(cipher)
        changed[bit // 8] ^= 1 << bit % 8
        _, content, event = open_all(CompiledOpener(provider, *SECRET), bytes(changed))
        assert content == b""
        assert isinstance(event, Fault) or changed[3:5] > cipher[3:5]  # longer: incomplete


def test_the_plaintext_of_a_refused_record_is_cleared(provider: Provider) -> None:
    cipher = bytearray(seal(CompiledSealer(provider, *SECRET), b"secret content"))
    cipher[-1] ^= 1
    plain = bytearray(b"\xee" * RECORD)
    CompiledOpener(provider, *SECRET).open(cipher, len(cipher), plain)
    assert plain == bytes(15) + b"\xee" * (RECORD - 15)


def test_many_tiny_records_are_bounded(libcrypto: Provider) -> None:
    sealer, opener = CompiledSealer(libcrypto, *SECRET), CompiledOpener(libcrypto, *SECRET)
    cipher = b"".join(seal(sealer, b"x") for _ in range(300))
    used, content, event = open_all(opener, cipher)
    assert (used, content, event) == (256 * 23, b"x" * 256, None)
    assert open_all(opener, cipher[used:]) == (44 * 23, b"x" * 44, None)


def test_a_call_is_limited_to_a_mebibyte(libcrypto: Provider) -> None:
    sealer, opener = CompiledSealer(libcrypto, *SECRET), CompiledOpener(libcrypto, *SECRET)
    with pytest.raises(ValueError, match="more data than one call takes"):
        sealer.seal([bytes(MOST_BYTES), b"x"], bytearray(sealed_size(MOST_BYTES + 1)))
    assert sealer.number == 0
    cipher = seal(sealer, bytes(MOST_BYTES)) + seal(sealer, b"rest")
    used, content, event = open_all(opener, cipher)
    assert (len(content), event) == (MOST_BYTES - RECORD, None)  # a padded record might not have fitted
    assert open_all(opener, cipher[used:])[1] == bytes(RECORD) + b"rest"


def test_an_output_that_is_too_small(libcrypto: Provider) -> None:
    sealer, opener = CompiledSealer(libcrypto, *SECRET), CompiledOpener(libcrypto, *SECRET)
    with pytest.raises(ValueError, match="output buffer is too small"):
        sealer.seal([b"content"], bytearray(sealed_size(7) - 1))
    assert sealer.number == 0
    cipher = seal(sealer, b"content") + seal(sealer, bytes(100))
    plain = bytearray(50)
    assert opener.open(cipher, len(cipher), plain) == (sealed_size(7), 7, None)
    with pytest.raises(ValueError, match="output buffer is too small"):
        opener.open(cipher[sealed_size(7) :], sealed_size(100), plain)
    assert open_all(opener, cipher[sealed_size(7) :]) == (sealed_size(100), bytes(100), None)


def test_read_only_memory_is_not_written(libcrypto: Provider) -> None:
    out: Sequence[object] = (bytes(100), memoryview(bytes(100)))
    for readonly in out:
        with pytest.raises((BufferError, TypeError, ValueError)):
            CompiledSealer(libcrypto, *SECRET).seal([b"x"], readonly)  # type: ignore[arg-type]
        with pytest.raises((BufferError, TypeError, ValueError)):
            CompiledOpener(libcrypto, *SECRET).open(b"", 0, readonly)  # type: ignore[arg-type]


def test_types_must_be_valid_and_only_data_may_be_empty(libcrypto: Provider) -> None:
    sealer = CompiledSealer(libcrypto, *SECRET)
    for kind, content in ((0, b"x"), (20, b"x"), (24, b"x"), (ALERT, b""), (HANDSHAKE, b"")):
        with pytest.raises(ValueError, match="invalid arguments"):
            sealer.seal([content], bytearray(100), kind)
    assert sealer.number == 0


def test_a_key_has_a_limit_of_records(provider: Provider) -> None:
    sealer, opener = CompiledSealer(provider, *SECRET, 3), CompiledOpener(provider, *SECRET, 2)
    cipher = seal(sealer, bytes(RECORD))
    with pytest.raises(EngineError, match="key limit reached"):
        seal(sealer, bytes(2 * RECORD + 1))
    cipher += seal(sealer, bytes(RECORD), b"x")
    with pytest.raises(EngineError, match="key limit reached"):
        seal(sealer, b"x")
    assert sealer.number == 3
    _, content, event = open_all(opener, cipher)
    assert (len(content), opener.number) == (2 * RECORD, 2)
    assert isinstance(event, Fault)
    assert event.alert == INTERNAL_ERROR


def test_the_last_number_is_never_used(provider: Provider) -> None:
    last = NO_LIMIT - 1
    secret = SECRET._replace(number=last)
    sealer, opener = CompiledSealer(provider, *secret), CompiledOpener(provider, *secret)
    cipher = seal(sealer, b"the last one")
    assert cipher == ReferenceRecords(secret).seal(b"the last one")
    with pytest.raises(EngineError):
        seal(sealer, b"x")
    assert sealer.number == NO_LIMIT
    assert open_all(opener, cipher)[1] == b"the last one"
    assert isinstance(open_all(opener, cipher)[2], Fault)
    with pytest.raises(ValueError, match="invalid key"):
        CompiledSealer(provider, *SECRET[:3], NO_LIMIT + 1)


@pytest.mark.parametrize("wrong", [{"key": bytes(16)}, {"iv": bytes(11)}, {"number": -1}])
def test_invalid_keys(libcrypto: Provider, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="invalid key for TLS_AES_256_GCM_SHA384"):
        CompiledSealer(libcrypto, *SECRET._replace(**wrong))  # type: ignore[arg-type]


def test_two_threads_with_a_key_each(provider: Provider) -> None:
    """Calls release the GIL: both threads run in C in parallel."""
    problems = list[BaseException]()
    meeting = threading.Barrier(2)

    def work(seed: int) -> None:
        try:
            meeting.wait(10)
            engine_cases.check(provider, seed, 60)
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (5000, 6000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems


def test_two_threads_with_one_key_never_use_a_number_twice(provider: Provider) -> None:
    """A concurrent call may be refused; then nothing was done."""
    sealer = CompiledSealer(provider, *SECRET)
    records, refused = list[bytes](), list[ValueError]()
    meeting = threading.Barrier(2)

    def work() -> None:
        content, out = bytes(10 * RECORD), bytearray(sealed_size(10 * RECORD))
        meeting.wait(10)
        for _ in range(200):
            try:
                sealer.seal([content], out)
            except ValueError as error:
                refused.append(error)
            else:
                records.extend(
                    bytes(out[start : start + RECORD + OVERHEAD])
                    for start in range(0, len(out), RECORD + OVERHEAD)
                )

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(records) == len(set(records)) == sealer.number == 10 * (400 - len(refused))
    assert {str(error) for error in refused} <= {"another thread is using the key"}

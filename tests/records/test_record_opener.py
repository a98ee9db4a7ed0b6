"""Opening records: split anywhere, padded, empty, non-data, changed in any byte."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.rfc8448 import (
    CLIENT,
    CLIENT_CLOSE,
    CLIENT_DATA,
    CONTENT,
    SERVER,
    SERVER_CLOSE,
    SERVER_DATA,
    SUITE,
)
from tunnel.records.key_schedule import SUITES, Direction
from tunnel.records.record_opener import (
    MOST_EXPANSION,
    MOST_READS,
    NonDataRecord,
    RecordOpener,
    RecordViolation,
    ready,
)
from tunnel.records.record_sealer import RecordSealer
from tunnel.records.tls_messages import (
    ALERT,
    BAD_RECORD_MAC,
    CLOSE_NOTIFY,
    DATA,
    HANDSHAKE,
    HEADER,
    RECORD,
    RECORD_OVERFLOW,
    TAG,
    UNEXPECTED_MESSAGE,
)

GCM_256 = "TLS_AES_256_GCM_SHA384"
SECRET = bytes(range(48))

Found = NonDataRecord | RecordViolation | None


def ends(cipher: str = GCM_256) -> tuple[RecordSealer, RecordOpener]:
    """Return both ends of one direction."""
    secret = SECRET[: SUITES[cipher].hash.digest_size]
    return RecordSealer(cipher, Direction(secret, 0)), RecordOpener(cipher, Direction(secret, 0))


def opened(opener: RecordOpener, cipher: bytes) -> tuple[int, bytes, Found]:
    """Open ``cipher`` in one call. The plaintext buffer has the minimum size."""
    plain = bytearray(len(cipher))
    taken, filled, found = opener.open(memoryview(bytearray(cipher)), len(cipher), memoryview(plain))
    return taken, bytes(plain[:filled]), found


def stream(opener: RecordOpener, cipher: bytes, cuts: list[int]) -> tuple[bytes, list[Found]]:
    """Open ``cipher`` in pieces, split at ``cuts``; return content, and other findings."""
    waiting, got = b"", b""
    others: list[Found] = []
    for start, stop in zip([0, *cuts], [*cuts, len(cipher)], strict=True):
        waiting += cipher[start:stop]
        while ready(memoryview(waiting)):
            taken, plain, found = opened(opener, waiting)
            waiting, got = waiting[taken:], got + plain
            if found is not None:
                others.append(found)
            if isinstance(found, RecordViolation):
                return got, others
    assert not ready(memoryview(waiting))
    return got, others


def data(sealer: RecordSealer, content: bytes, padding: int = 0) -> bytes:
    """Return one data record."""
    return (
        sealer.record(0, content + bytes([DATA]) + bytes(padding - 1))
        if padding
        else sealer.record(DATA, content)
    )


def test_the_records_of_the_rfcs_trace() -> None:
    client = RecordOpener(SUITE, Direction(CLIENT, 0))
    assert opened(client, CLIENT_DATA + CLIENT_CLOSE[:-1]) == (len(CLIENT_DATA), CONTENT, None)
    assert opened(client, CLIENT_CLOSE) == (len(CLIENT_CLOSE), b"", NonDataRecord(ALERT, CLOSE_NOTIFY))
    server = RecordOpener(SUITE, Direction(SERVER, 1))
    whole = SERVER_DATA + SERVER_CLOSE
    assert opened(server, whole) == (len(whole), CONTENT, NonDataRecord(ALERT, CLOSE_NOTIFY))
    assert server.records == 3


@given(
    contents=some.lists(
        some.tuples(
            some.sampled_from([0, 1, 2, 20, 999, RECORD - 1, RECORD]), some.sampled_from([0, 1, 100])
        ),
        min_size=1,
        max_size=6,
    ),
    seed=some.randoms(use_true_random=False),
    cipher=some.sampled_from(list(SUITES)),
)
def test_records_of_any_size_and_padding_split_anywhere(
    contents: list[tuple[int, int]], seed: random.Random, cipher: str
) -> None:
    sealer, opener = ends(cipher)
    plains = [seed.randbytes(size) for size, _ in contents]
    records = [data(sealer, plain, padding) for plain, (_, padding) in zip(plains, contents, strict=True)]
    whole = b"".join(records)
    cuts = sorted(seed.sample(range(len(whole)), min(5, len(whole))))
    assert stream(opener, whole, cuts) == (b"".join(plains), [])
    assert opener.records == len(records)


def test_records_received_byte_by_byte() -> None:
    sealer, opener = ends()
    whole = (
        data(sealer, b"one") + data(sealer, b"") + data(sealer, b"two", 3) + sealer.record(HANDSHAKE, b"?")
    )
    assert stream(opener, whole, list(range(1, len(whole)))) == (b"onetwo", [NonDataRecord(HANDSHAKE, b"?")])


def test_each_call_stops_after_a_non_data_record() -> None:
    sealer, opener = ends()
    first = data(sealer, b"one") + sealer.record(HANDSHAKE, b"?")
    second = data(sealer, b"two")
    assert opened(opener, first + second) == (len(first), b"one", NonDataRecord(HANDSHAKE, b"?"))
    assert opened(opener, second) == (len(second), b"two", None)


def test_a_call_opens_a_bounded_number_of_records() -> None:
    sealer, opener = ends()
    records = [data(sealer, content) for content in [b"x", b""] * MOST_READS]
    whole = b"".join(records)
    taken, plain, found = opened(opener, whole)
    assert (taken, plain, found) == (len(whole) // 2, b"x" * (MOST_READS // 2), None)
    assert ready(memoryview(whole[taken:]))
    assert opened(opener, whole[taken:])[1] == b"x" * (MOST_READS // 2)


def test_every_byte_of_a_record_is_authenticated() -> None:
    """Header, content and tag: a changed record returns no data, those before it do."""
    sealer, _ = ends()
    first, second = data(sealer, b"good"), data(sealer, b"content", 3)
    for position in range(len(second)):
        for bit in (1, 128):
            _, opener = ends()
            spoilt = bytearray(second)
            spoilt[position] ^= bit
            got, found = stream(opener, first + bytes(spoilt) + bytes(70_000), [])
            assert got == b"good"
            assert isinstance(found[0], RecordViolation)
            expected = {0: {UNEXPECTED_MESSAGE}, 3: {BAD_RECORD_MAC, RECORD_OVERFLOW}}
            assert found[0].alert in expected.get(position, {BAD_RECORD_MAC})
            assert opener.records == 1


@pytest.mark.parametrize("way", ["again", "left out", "exchanged"])
def test_the_order_of_records_is_authenticated(way: str) -> None:
    """A record that is repeated, missing, or out of order fails."""
    sealer, opener = ends()
    one, two, three = (data(sealer, word) for word in (b"one", b"two", b"three"))
    whole = {"again": one + one, "left out": one + three, "exchanged": one + three + two}[way]
    got, found = stream(opener, whole, [])
    assert got == b"one"
    assert [each.alert for each in found if isinstance(each, RecordViolation)] == [BAD_RECORD_MAC]


def raw(kind: int, length: int) -> Callable[[RecordSealer], bytes]:
    return lambda _: bytes([kind, 3, 3]) + length.to_bytes(2) + bytes(length)


BREACHES: dict[str, tuple[Callable[[RecordSealer], bytes], int]] = {
    "an alert in the clear": (raw(21, 2), UNEXPECTED_MESSAGE),
    "change_cipher_spec": (raw(20, 1), UNEXPECTED_MESSAGE),
    "a handshake in the clear": (raw(22, 40), UNEXPECTED_MESSAGE),
    "no TLS": (lambda _: b"GET / HTTP/1.1\r\n\r\n", UNEXPECTED_MESSAGE),
    "too long": (raw(23, RECORD + MOST_EXPANSION + 1), RECORD_OVERFLOW),
    "nothing in it": (raw(23, 0), BAD_RECORD_MAC),
    "a tag alone": (raw(23, TAG), BAD_RECORD_MAC),
    "garbage": (raw(23, 100), BAD_RECORD_MAC),
    "no type": (lambda sealer: sealer.record(0, bytes(100)), UNEXPECTED_MESSAGE),
    "nothing but a type that is none": (lambda sealer: sealer.record(0, b""), UNEXPECTED_MESSAGE),
    "a byte too much": (lambda sealer: sealer.record(DATA, bytes(RECORD + 1)), RECORD_OVERFLOW),
    "too long an alert": (lambda sealer: sealer.record(ALERT, bytes(RECORD + 1)), RECORD_OVERFLOW),
}  # fmt: skip


@pytest.mark.parametrize(("make", "alert"), BREACHES.values(), ids=BREACHES)
def test_an_invalid_record_is_a_violation(make: Callable[[RecordSealer], bytes], alert: int) -> None:
    sealer, opener = ends()
    good = data(sealer, b"good")
    bad = make(sealer)
    assert ready(memoryview(bad))
    _, plain, found = opened(opener, good + bad)
    assert plain == b"good"
    assert isinstance(found, RecordViolation)
    assert found.alert == alert
    assert found.reason.startswith(("the peer violated the TLS protocol: ", "TLS failed: "))


def test_an_invalid_length_is_reported_before_the_body_is_received() -> None:
    _, opener = ends()
    header = b"\x17\x03\x03\xff\xff"
    assert ready(memoryview(header))
    assert not ready(memoryview(header[:4]))
    found = opened(opener, header)[2]
    assert isinstance(found, RecordViolation)
    assert found.alert == RECORD_OVERFLOW


def test_maximum_padding_is_allowed() -> None:
    sealer, opener = ends()
    for size in (RECORD, RECORD - 5, 0):
        record = sealer.record(
            0, bytes(size) + bytes([DATA]) + bytes(RECORD + MOST_EXPANSION - TAG - size - 2)
        )
        assert len(record) == HEADER + RECORD + MOST_EXPANSION
        assert opened(opener, record)[1:] == (bytes(size), None)


def test_content_is_contiguous_and_ciphertext_unchanged() -> None:
    sealer, opener = ends()
    cipher = (
        data(sealer, b"one", 50) + data(sealer, b"two") + sealer.record(ALERT, b"?!") + data(sealer, b"three")
    )
    incoming = memoryview(bytearray(cipher))
    plain = memoryview(bytearray(len(cipher)))
    taken, filled, _ = opener.open(incoming, len(cipher), plain)
    opener.open(incoming[taken:], len(cipher) - taken, plain[filled:])
    assert bytes(plain[: filled + 5]) == b"onetwothree"
    assert incoming == cipher


def test_update_switches_to_the_next_key() -> None:
    sealer, opener = ends()
    update = sealer.update()
    assert isinstance(opened(opener, update)[2], NonDataRecord)
    assert opener.records == 1
    opener.update()
    assert opener.records == 0
    assert opened(opener, data(sealer, b"behind"))[1] == b"behind"

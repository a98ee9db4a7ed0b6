"""Random records, valid and damaged, for the compiled engine and the reference, which must agree.

A seed gives the same cases everywhere. As a program it tests a library that is built with sanitizers::

    python -m tests.support.engine_cases LIBRARY LIBCRYPTO IPSEC_MB SEED COUNT     (IPSEC_MB may be "")
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.reference_records import ReferenceRecords, Secret
from tunnel.engine.binding import SUITES, Provider, load
from tunnel.engine.compiled import (
    ALERT,
    DATA,
    HANDSHAKE,
    NO_LIMIT,
    RECORD,
    Bytes,
    CompiledOpener,
    CompiledSealer,
    Control,
    Fault,
    sealed_size,
)

SIZES = (0, 1, 15, 16, 17, 31, 100, 4096, RECORD - 1, RECORD)
FULL = RECORD + 256 + 5


def draw_secret(rng: random.Random) -> Secret:
    suite = rng.choice(SUITES)
    number = rng.choice((0, 1, 255, 1 << 32, rng.randrange(1 << 63)))
    return Secret(suite, rng.randbytes(16 if "AES_128" in suite else 32), rng.randbytes(12), number)


def draw_pieces(rng: random.Random) -> list[Bytes]:
    """Return bytes-like objects of every kind, some empty, some longer than a record."""
    kinds = (bytes, bytearray, memoryview, lambda data: memoryview(bytearray(b"--" + data + b"-"))[2:-1])
    sizes = [rng.choice((*SIZES, 20, 3 * RECORD, rng.randrange(50_000))) for _ in range(rng.randrange(6))]
    return [rng.choice(kinds)(rng.randbytes(size)) for size in sizes]


def check_sealing(provider: Provider, rng: random.Random) -> None:
    """Make some calls with one key, with an output buffer of the exact size or larger."""
    secret = draw_secret(rng)
    reference, sealer = ReferenceRecords(secret), CompiledSealer(provider, *secret)
    for _ in range(3):
        pieces = draw_pieces(rng)
        content = b"".join(pieces)
        kind = rng.choice((DATA, DATA, HANDSHAKE, ALERT)) if content else DATA
        out = bytearray(b"\xee" * (sealed_size(len(content)) + rng.choice((0, 0, 100))))
        count = sealer.seal(pieces, out, kind)
        assert out[:count] == reference.seal(content, kind)
        assert set(out[count:]) <= {0xEE}
        assert sealer.number == reference.number


def draw_inner(rng: random.Random) -> bytes:
    """Return the inner plaintext of a record: mostly DATA, with and without padding; sometimes invalid."""
    content = rng.randbytes(rng.choice((*SIZES, rng.randrange(RECORD))))
    kind = rng.choice((DATA,) * 12 + (ALERT, HANDSHAKE, HANDSHAKE, 20, 24, 0))
    inner = content + bytes([kind]) if kind else b""
    padding = rng.choice((0, 0, 0, 1, 16, rng.randrange(2000)))
    room = RECORD + rng.choice((1, 1, 1, 1, 200, 240)) - len(inner)
    if rng.random() < 0.05:
        return rng.randbytes(RECORD + rng.choice((1, 2, 240))) + bytes([kind])
    return (inner + bytes(min(padding, room))) or bytes(rng.randrange(1, 40))


def draw_cipher(rng: random.Random, reference: ReferenceRecords) -> bytes:
    """Return consecutive records, mostly with some damage."""
    parts = [reference.protect(draw_inner(rng)) for _ in range(rng.randrange(1, 12))]
    cipher = bytearray(b"".join(parts))
    damage = rng.randrange(8)
    position = rng.randrange(len(cipher)) if rng.random() < 0.5 else len(b"".join(parts[: len(parts) // 2]))
    position = min(position, len(cipher) - 1)
    if damage == 0:
        cipher[position] ^= 1 << rng.randrange(8)
    elif damage == 1:
        cipher[position : position + 5] = rng.randbytes(5)
    elif damage == 2:
        cipher[position + 3 : position + 5] = rng.choice(
            (0, 16, 17, 16401, 16402, 16640, 16641, 65535)
        ).to_bytes(2)
    elif damage == 3:
        del cipher[position : position + rng.randrange(1, 50)]
    elif damage == 4:
        cipher[position:position] = rng.randbytes(rng.randrange(1, 50))
    return bytes(cipher)


def read_through(
    opener: CompiledOpener, cipher: bytes, rng: random.Random
) -> tuple[int, bytes, list[Control | Fault]]:
    """Open everything, in parts like a socket; return bytes used, content, and events."""
    content, events, start, end = b"", list[Control | Fault](), 0, 0
    while True:
        plain = bytearray(rng.choice((FULL, FULL + 1000, len(cipher) + FULL)))
        data = cipher[start:end]  # exactly these bytes: reading beyond them is an error
        used, filled, event = opener.open(data, len(data), plain)
        content += plain[:filled]
        start += used
        if event:
            events.append(event)
        if isinstance(event, Fault):
            assert opener.open(data[used:], len(data) - used, plain) == (0, 0, event)
            return start, content, events
        if not (used or event):
            if end == len(cipher):
                return start, content, events
            end = min(len(cipher), end + rng.choice((1, 4, 5, 100, FULL, len(cipher))))


def read_plainly(reference: ReferenceRecords, cipher: bytes) -> tuple[int, bytes, list[Control | Fault]]:
    content, events, start = b"", list[Control | Fault](), 0
    while True:
        used, more, event = reference.open(cipher[start:])
        content += more
        start += used
        if event:
            events.append(event)
        if not isinstance(event, Control):
            return start, content, events


def without_words(events: list[Control | Fault]) -> Iterator[tuple[int, bytes] | int]:
    for event in events:
        yield event.alert if isinstance(event, Fault) else (event.kind, event.content)


def check_opening(provider: Provider, rng: random.Random) -> None:
    secret = draw_secret(rng)
    cipher = draw_cipher(rng, ReferenceRecords(secret))
    reference, opener = ReferenceRecords(secret), CompiledOpener(provider, *secret, NO_LIMIT)
    used, content, events = read_through(opener, cipher, rng)
    expected_used, expected_content, expected = read_plainly(reference, cipher)
    assert (used, content) == (expected_used, expected_content)
    assert [*without_words(events)] == [*without_words(expected)]


def check(provider: Provider, seed: int, count: int) -> None:
    """Run ``count`` cases of each kind. Raises AssertionError with the seed of a case that differs."""
    for index in range(seed, seed + count):
        for case in (check_sealing, check_opening):
            try:
                case(provider, random.Random(index))
            except AssertionError as error:
                raise AssertionError(f"{case.__name__} with seed {index}") from error


def main(library: str, libcrypto: str, ipsec_mb: str, seed: str, count: str) -> None:
    provider = Provider(load(Path(library)), libcrypto)
    if ipsec_mb:
        provider.use_ipsec_mb(ipsec_mb)
    check(provider, int(seed), int(count))
    print(f"{count} cases agree")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The key schedule, against the examples of RFC 8448."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes

from tests.support.rfc8448 import CLIENT, KEYS, SECRETS, SERVER, SUITE
from tunnel.records.key_schedule import (
    SUITES,
    Direction,
    expand_label,
    key_and_iv,
    keys_of,
    next_secret,
)
from tunnel.wire.rotation import KEY_LIMIT


@pytest.mark.parametrize(("secret", "key", "iv"), KEYS.values(), ids=KEYS)
def test_the_key_schedule_is_that_of_the_rfc(secret: bytes, key: str, iv: str) -> None:
    assert expand_label(secret, "key", 16, hashes.SHA256()).hex() == key
    assert expand_label(secret, "iv", 12, hashes.SHA256()).hex() == iv
    assert [part.hex() for part in key_and_iv(SUITE, secret)] == [key, iv]


@pytest.mark.parametrize("dialing", [True, False])
def test_each_side_sends_under_its_own_secret(dialing: bool) -> None:
    keys = keys_of(SUITE, SECRETS, dialing=dialing, sent=2, received=1)
    assert keys.send == Direction(CLIENT if dialing else SERVER, 2)
    assert keys.receive == Direction(SERVER if dialing else CLIENT, 1)


@pytest.mark.parametrize(
    ("cipher", "key", "secret"), list(zip(SUITES, (32, 32, 16), (48, 32, 32), strict=True))
)
def test_each_suite_has_keys_of_its_size_and_secrets_of_its_hash(cipher: str, key: int, secret: int) -> None:
    first = bytes(range(secret))
    second = next_secret(cipher, first)
    assert len(second) == secret
    assert next_secret(cipher, second) not in {first, second}
    assert [len(part) for part in key_and_iv(cipher, second)] == [key, 12]
    assert SUITES[cipher].aead(key_and_iv(cipher, first)[0]).encrypt(bytes(12), b"", None) != b""


@pytest.mark.parametrize("cipher", SUITES)
def test_the_key_limit_of_lanes_is_below_that_of_each_suite(cipher: str) -> None:
    most = SUITES[cipher].most_records
    assert most > KEY_LIMIT
    assert most <= (2**24.5 if "GCM" in cipher else 2**64)

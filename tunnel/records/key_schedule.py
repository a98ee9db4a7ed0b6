"""The TLS 1.3 key schedule: record keys from the traffic secrets of a handshake (RFC 8446 7.1 to 7.3).

OpenSSL does the handshake and writes the secrets to a key log (``openssl.enable_keylog``). The keys are the
same for userspace and kernel lanes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

Aead: TypeAlias = AESGCM | ChaCha20Poly1305

IV = 12
"""Bytes of an initialization vector and of a nonce (section 5.3), the same for every suite here."""

_GCM_RECORDS = 23_726_566  # 2**24.5


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite. ``key`` is the key length in bytes, ``hash`` the hash of the key schedule.

    ``number`` is the kernel's (linux/tls.h), whose struct holds the first ``salt`` bytes of an IV separately.
    ``most_records`` is the maximum number of records that one key may protect (section 5.5).
    """

    number: int
    key: int
    salt: int
    hash: hashes.HashAlgorithm
    aead: type[Aead]
    most_records: int


SUITES: Mapping[str, Suite] = {
    "TLS_AES_256_GCM_SHA384": Suite(52, 32, 4, hashes.SHA384(), AESGCM, _GCM_RECORDS),
    "TLS_CHACHA20_POLY1305_SHA256": Suite(54, 32, 0, hashes.SHA256(), ChaCha20Poly1305, (1 << 64) - 1),
    "TLS_AES_128_GCM_SHA256": Suite(51, 16, 4, hashes.SHA256(), AESGCM, _GCM_RECORDS),
}
"""The TLS 1.3 suites that OpenSSL offers, by its names and in its order of preference."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a connection: its traffic secret and the number of records protected with it."""

    secret: bytes
    records: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The cipher (one of ``SUITES``) and the state of both directions after the handshake."""

    cipher: str
    send: Direction
    receive: Direction


def keys_of(cipher: str, secrets: Mapping[str, bytes], *, dialing: bool, sent: int, received: int) -> Keys:
    """Sort the ``secrets`` of a key log by direction; ``sent`` and ``received`` count records."""
    ours, theirs = ("CLIENT", "SERVER") if dialing else ("SERVER", "CLIENT")
    return Keys(
        cipher,
        Direction(secrets[f"{ours}_TRAFFIC_SECRET_0"], sent),
        Direction(secrets[f"{theirs}_TRAFFIC_SECRET_0"], received),
    )


def expand_label(secret: bytes, label: str, length: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """Return HKDF-Expand-Label (section 7.1) for an empty context."""
    name = b"tls13 " + label.encode()
    info = struct.pack("!HB", length, len(name)) + name + b"\0"
    return HKDFExpand(algorithm, length, info).derive(secret)


def key_and_iv(cipher: str, secret: bytes) -> tuple[bytes, bytes]:
    """Return the key and IV of ``cipher`` for a traffic secret (section 7.3)."""
    suite = SUITES[cipher]
    key = expand_label(secret, "key", suite.key, suite.hash)
    return key, expand_label(secret, "iv", IV, suite.hash)


def next_secret(cipher: str, secret: bytes) -> bytes:
    """Return the traffic secret after a KeyUpdate (section 7.2)."""
    suite = SUITES[cipher]
    return expand_label(secret, "traffic upd", suite.hash.digest_size, suite.hash)


class RecordKey:
    """The key of one direction's records, starting at record number ``direction.records``."""

    def __init__(self, cipher: str, direction: Direction) -> None:
        self._cipher = cipher
        self.records = 0  # protected with the current key
        self._take_key(direction.secret, direction.records)

    def _take_key(self, secret: bytes, number: int) -> None:
        key, iv = key_and_iv(self._cipher, secret)
        self._secret = secret
        self._aead = SUITES[self._cipher].aead(key)
        self._iv = int.from_bytes(iv)
        self.records = number

    def _take_next_key(self) -> None:
        """Switch to the key that follows a KeyUpdate (section 7.2)."""
        self._take_key(next_secret(self._cipher, self._secret), 0)

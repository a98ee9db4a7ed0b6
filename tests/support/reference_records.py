"""A simple implementation of TLS 1.3 records, as reference for the compiled engine (RFC 8446 section 5)."""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tunnel.engine.compiled import (
    BAD_RECORD_MAC,
    DATA,
    RECORD,
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
    Control,
    Fault,
)

HEADER, TAG = 5, 16


class Secret(NamedTuple):
    """The key material of one direction."""

    suite: str
    key: bytes
    iv: bytes
    number: int = 0


class ReferenceRecords:
    """One direction, for sealing or for opening."""

    def __init__(self, secret: Secret) -> None:
        self._aead = (ChaCha20Poly1305 if "CHACHA20" in secret.suite else AESGCM)(secret.key)
        self._iv = int.from_bytes(secret.iv)
        self.number = secret.number

    def _nonce(self) -> bytes:
        return (self._iv ^ self.number).to_bytes(12)

    def protect(self, inner: bytes, version: bytes = b"\x03\x03") -> bytes:
        """Return the next record of any inner plaintext: content, type and padding, each optional."""
        header = bytes([DATA]) + version + (len(inner) + TAG).to_bytes(2)
        record = header + self._aead.encrypt(self._nonce(), inner, header)
        self.number += 1
        return record

    def seal(self, content: bytes, kind: int = DATA) -> bytes:
        """Return as few records as possible."""
        parts = [content[start : start + RECORD] for start in range(0, len(content), RECORD)]
        return b"".join(self.protect(part + bytes([kind])) for part in parts)

    def open(self, cipher: bytes) -> tuple[int, bytes, Control | Fault | None]:
        """Open complete records until one is not DATA; return bytes used, content, and that record."""
        used, content = 0, b""
        while len(cipher) - used >= HEADER:
            header, rest = cipher[used : used + HEADER], cipher[used + HEADER :]
            if alert := judge(header):
                return used, content, Fault(alert, "")
            length = int.from_bytes(header[3:])
            if len(rest) < length:
                break
            try:
                inner = self._aead.decrypt(self._nonce(), rest[:length], header).rstrip(b"\0")
            except InvalidTag:
                return used, content, Fault(BAD_RECORD_MAC, "")
            if not inner:
                return used, content, Fault(UNEXPECTED_MESSAGE, "")
            if len(inner) > RECORD + 1:
                return used, content, Fault(RECORD_OVERFLOW, "")
            self.number += 1
            used += HEADER + length
            if inner[-1] != DATA:
                return used, content, Control(inner[-1], inner[:-1])
            content += inner[:-1]
        return used, content, None


def judge(header: bytes) -> int:
    """Return the alert for a header; 0 if it is valid."""
    length = int.from_bytes(header[3:])
    if header[0] != DATA:
        return UNEXPECTED_MESSAGE
    if length > RECORD + 256:
        return RECORD_OVERFLOW
    return BAD_RECORD_MAC if length < 1 + TAG else 0

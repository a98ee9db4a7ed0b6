"""Self-test of the compiled library, with the ciphers that it found, against the records of TLS 1.3.

Run before first use: it must seal a record of RFC 8448, then with every suite records of all shapes (full,
short, pieces that end within a block), identical to those of ``cryptography``; then open them, and reject
one that was modified. Takes some milliseconds.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tunnel.engine.binding import SUITES, Provider
from tunnel.engine.compiled import (
    BAD_RECORD_MAC,
    DATA,
    OVERHEAD,
    RECORD,
    CompiledOpener,
    CompiledSealer,
    EngineError,
    Fault,
    sealed_size,
)

_KEY = bytes.fromhex("17422dda596ed5d9acd890e3c63f5051")
_IV = bytes.fromhex("5b78923dee08579033e523d9")
_CONTENT = bytes(range(50))
_RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f"
    "5a6292a2977014bd1e3deae63aeebb21694915e4"
)
"""RFC 8448 section 3: the client's application data, its first record under these keys."""

_NUMBER = 0x01020304050607FE
_PIECES = (1, 15, 16, 17, RECORD, RECORD - 1, 20, 2 * RECORD + 7, 333)


def fault(provider: Provider) -> str:
    """Return what the library does wrong with the ciphers of ``provider``; "" if nothing."""
    try:
        if _seal(provider, SUITES[1], _KEY, _IV, 0, [_CONTENT]) != _RECORD:
            return "its record differs from that of RFC 8448"
        for suite in SUITES:
            if problem := _compare(provider, suite):
                return f"{suite}: {problem}"
    except EngineError as error:
        return str(error)
    return ""


def _compare(provider: Provider, suite: str) -> str:
    key, iv = bytes(range(16 if "AES_128" in suite else 32)), bytes(range(100, 112))
    content = bytes(i * 7 % 251 for i in range(sum(_PIECES)))
    pieces, start = [], 0
    for size in _PIECES:
        pieces.append(content[start : start + size])
        start += size
    expected = _reference(suite, key, iv, content)
    if _seal(provider, suite, key, iv, _NUMBER, pieces) != expected:
        return "its records differ from those of cryptography"
    opener, plain = CompiledOpener(provider, suite, key, iv, _NUMBER), bytearray(len(expected))
    consumed, filled, event = opener.open(expected, len(expected), plain)
    if (consumed, bytes(plain[:filled]), event) != (len(expected), content, None):
        return "it does not open the records of cryptography"
    changed = bytearray(expected)
    changed[-1] ^= 1
    opener = CompiledOpener(provider, suite, key, iv, _NUMBER)
    _, filled, event = opener.open(changed, len(changed), plain)
    if not isinstance(event, Fault) or event.alert != BAD_RECORD_MAC or filled >= len(content):
        return "it opens a modified record"
    return ""


def _seal(provider: Provider, suite: str, key: bytes, iv: bytes, number: int, pieces: list[bytes]) -> bytes:
    out = bytearray(sealed_size(sum(map(len, pieces))))
    count = CompiledSealer(provider, suite, key, iv, number).seal(pieces, out)
    return bytes(out[:count])


def _reference(suite: str, key: bytes, iv: bytes, content: bytes) -> bytes:
    """Seal the records with ``cryptography`` (RFC 8446 sections 5.2 and 5.3)."""
    aead = (ChaCha20Poly1305 if "CHACHA20" in suite else AESGCM)(key)
    records = []
    for index, start in enumerate(range(0, len(content), RECORD)):
        inner = content[start : start + RECORD] + bytes([DATA])
        header = bytes([DATA, 3, 3]) + (len(inner) + OVERHEAD - 6).to_bytes(2)
        nonce = (int.from_bytes(iv) ^ (_NUMBER + index)).to_bytes(len(iv))
        records.append(header + aead.encrypt(nonce, inner, header))
    return b"".join(records)

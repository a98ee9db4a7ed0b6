"""A TLS 1.3 record made by hand, for what OpenSSL has no call for: an alert of our choice (RFC 8446)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tunnel.transport.key_schedule import Direction, key_and_iv

_TAG = 16
_AEADS: dict[str, type[AESGCM | ChaCha20Poly1305]] = {
    "TLS_AES_256_GCM_SHA384": AESGCM,
    "TLS_AES_128_GCM_SHA256": AESGCM,
    "TLS_CHACHA20_POLY1305_SHA256": ChaCha20Poly1305,
}


def seal(cipher: str, direction: Direction, kind: int, content: bytes) -> bytes:
    """Return the record number ``direction.records`` under its secret: sections 5.2 and 5.3.

    ``kind`` is a content type of ``ktls``. No other record may have that number.
    """
    key, iv = key_and_iv(cipher, direction.secret)
    nonce = (int.from_bytes(iv) ^ direction.records).to_bytes(len(iv))
    inner = content + bytes([kind])
    header = b"\x17\x03\x03" + (len(inner) + _TAG).to_bytes(2)
    return header + _AEADS[cipher](key).encrypt(nonce, inner, header)

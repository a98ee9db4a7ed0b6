"""The receiving half of the TLS 1.3 record layer: opens the records of one direction (RFC 8446 section 5.2).

Each record is decrypted directly behind the content of the previous one, overwriting its content type and
padding.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from tunnel.records.key_schedule import IV, RecordKey
from tunnel.records.tls_messages import (
    BAD_RECORD_MAC,
    DATA,
    HEADER,
    RECORD,
    RECORD_OVERFLOW,
    SPOILT,
    TAG,
    UNEXPECTED_MESSAGE,
)

MOST_READS = 256
"""Maximum number of records that one call opens. A batch has 32 full ones."""

MOST_EXPANSION = 256
"""Bytes by which a record may exceed the maximum content (section 5.2)."""

_WHOLE = RECORD + 1 + TAG
_HEADER = b"\x17\x03\x03" + _WHOLE.to_bytes(2)


class NonDataRecord(NamedTuple):
    """A record other than application_data: its type and content."""

    kind: int
    content: bytes


class RecordViolation(NamedTuple):
    """An invalid record: the alert to send (section 6.2), and the reason as text."""

    alert: int
    reason: str


class RecordOpener(RecordKey):
    """Decrypts and authenticates records."""

    def update(self) -> None:
        """Switch to the next key, after a KeyUpdate of the peer."""
        self._take_next_key()

    def open(
        self, cipher: memoryview, size: int, plain: memoryview
    ) -> tuple[int, int, NonDataRecord | RecordViolation | None]:
        """Open the complete records in the first ``size`` bytes of ``cipher``, up to ``MOST_READS`` of them.

        Returns the number of bytes consumed; the number of bytes of data at the start of ``plain``, which
        must hold ``size``; and what stopped it early, if anything did. A NonDataRecord has been consumed.
        After a RecordViolation the connection is unusable; the data in ``plain`` came before it.
        """
        decrypt, iv, first = self._aead.decrypt_into, self._iv, self.records
        position = filled = 0
        found: NonDataRecord | RecordViolation | None = None
        for number in range(first, first + MOST_READS):
            body = position + HEADER
            if body > size:
                break
            header, length = _HEADER, _WHOLE
            if cipher[position:body] != _HEADER:
                header = bytes(cipher[position:body])
                length = header[3] << 8 | header[4]
                if found := _objection(header, length):
                    break
            end = body + length
            if end > size:
                break
            last = filled + length - TAG - 1
            try:
                nonce = (iv ^ number).to_bytes(IV)
                decrypt(nonce, cipher[body:end], header, plain[filled : last + 1])
            except InvalidTag:
                found = RecordViolation(BAD_RECORD_MAC, SPOILT)
                break
            self.records = number + 1
            position = end
            if plain[last] == DATA and length <= _WHOLE:
                filled = last
                continue
            content, found = _content(plain[filled : last + 1])
            filled += content
            if found:
                break
        return position, filled, found


def ready(cipher: memoryview) -> bool:
    """Whether ``cipher`` starts with a complete or an invalid record, so that ``open`` makes progress."""
    if len(cipher) < HEADER:
        return False
    header = bytes(cipher[:HEADER])
    length = header[3] << 8 | header[4]
    return len(cipher) >= HEADER + length or _objection(header, length) is not None


def _objection(header: bytes, length: int) -> RecordViolation | None:
    """Return why a record header is invalid. The version is ignored here: it is authenticated."""
    if header[0] != DATA:
        return RecordViolation(
            UNEXPECTED_MESSAGE, f"the peer violated the TLS protocol: unencrypted record of type {header[0]}"
        )
    if length > RECORD + MOST_EXPANSION:
        return RecordViolation(
            RECORD_OVERFLOW, f"the peer violated the TLS protocol: record of {length} bytes"
        )
    if length <= TAG:
        return RecordViolation(BAD_RECORD_MAC, SPOILT)
    return None


def _content(inner: memoryview) -> tuple[int, NonDataRecord | RecordViolation | None]:
    """Strip padding and type from a TLSInnerPlaintext (section 5.4): bytes of data, or what else it is."""
    unpadded = bytes(inner).rstrip(b"\0")
    if not unpadded:
        return 0, RecordViolation(
            UNEXPECTED_MESSAGE, "the peer violated the TLS protocol: record without a type"
        )
    content, kind = unpadded[:-1], unpadded[-1]
    if len(content) > RECORD:
        return 0, RecordViolation(
            RECORD_OVERFLOW, f"the peer violated the TLS protocol: {len(content)} bytes in a record"
        )
    return (len(content), None) if kind == DATA else (0, NonDataRecord(kind, content))

"""Content, taken from the TLS 1.3 records of one direction as they come (RFC 8446 section 5.2).

Each is decrypted to where its content is to lie, behind the one before; of what follows the content there,
its type and perhaps padding, the next one takes the place.
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
"""Records that one call opens. Of full ones a batch has 32."""

MOST_EXPANSION = 256
"""Bytes that a record may be longer than the most of content (section 5.2)."""

_WHOLE = RECORD + 1 + TAG
_HEADER = b"\x17\x03\x03" + _WHOLE.to_bytes(2)


class NonDataRecord(NamedTuple):
    """A record that is none of data: its type and content."""

    kind: int
    content: bytes


class RecordViolation(NamedTuple):
    """What is no record of the peer's: the alert that says so (section 6.2), and why, in words."""

    alert: int
    reason: str


class RecordOpener(RecordKey):
    """Takes records."""

    def update(self) -> None:
        """The peer said KeyUpdate: the next record is under the next key."""
        self._take_next_key()

    def open(
        self, cipher: memoryview, size: int, plain: memoryview
    ) -> tuple[int, int, NonDataRecord | RecordViolation | None]:
        """Open the whole records in the first ``size`` bytes of ``cipher``, up to ``MOST_READS`` of them.

        Returns how many bytes these were; how many bytes of content, of data alone, are at the start of
        ``plain``, which must hold ``size``; and what ended it before, if anything did. An Aside is taken by
        then. At a Breach the connection is of no more use; what is said to be in ``plain`` came before it.
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
    """Whether ``open`` has something to do with ``cipher``, and does not wait for the rest of a record."""
    if len(cipher) < HEADER:
        return False
    header = bytes(cipher[:HEADER])
    length = header[3] << 8 | header[4]
    return len(cipher) >= HEADER + length or _objection(header, length) is not None


def _objection(header: bytes, length: int) -> RecordViolation | None:
    """Why a record of this header cannot be one; its version, which is authenticated, says nothing."""
    if header[0] != DATA:
        return RecordViolation(
            UNEXPECTED_MESSAGE, f"the peer broke TLS: a record of type {header[0]} in the clear"
        )
    if length > RECORD + MOST_EXPANSION:
        return RecordViolation(RECORD_OVERFLOW, f"the peer broke TLS: a record of {length} bytes")
    if length <= TAG:
        return RecordViolation(BAD_RECORD_MAC, SPOILT)
    return None


def _content(inner: memoryview) -> tuple[int, NonDataRecord | RecordViolation | None]:
    """Take padding and type off what was encrypted (section 5.4): bytes of data, or what else it is."""
    unpadded = bytes(inner).rstrip(b"\0")
    if not unpadded:
        return 0, RecordViolation(UNEXPECTED_MESSAGE, "the peer broke TLS: a record without a type")
    content, kind = unpadded[:-1], unpadded[-1]
    if len(content) > RECORD:
        return 0, RecordViolation(RECORD_OVERFLOW, f"the peer broke TLS: {len(content)} bytes in a record")
    return (len(content), None) if kind == DATA else (0, NonDataRecord(kind, content))

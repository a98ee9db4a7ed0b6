"""The sending half of the TLS 1.3 record layer: seals the records of one direction (RFC 8446 section 5.2).

Content is encrypted from its own memory directly into the send buffer. The content type must follow it: in
writable memory it temporarily replaces the next byte. Otherwise the content is copied once, within the L1
cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tunnel.errors import LaneError
from tunnel.records.key_schedule import IV, SUITES, Direction, RecordKey
from tunnel.records.tls_messages import DATA, HANDSHAKE, HEADER, KEY_UPDATE, OVERHEAD, RECORD, TAG

Content: TypeAlias = bytes | memoryview

_START = b"\x17\x03\x03"  # of every record: the outer type and the legacy version
_WHOLE = HEADER + RECORD + 1 + TAG
_HEADER = _START + (RECORD + 1 + TAG).to_bytes(2)
_DATA = bytes([DATA])


def sealed_size(size: int) -> int:
    """Return the size of the records of ``size`` bytes of content."""
    return size + OVERHEAD * -(-size // RECORD)


class RecordSealer(RecordKey):
    """Encrypts records. A record number is never used twice with one key.

    A writable piece is modified during a call and restored: no other thread may read it meanwhile.
    """

    def __init__(self, cipher: str, direction: Direction) -> None:
        self._most = SUITES[cipher].most_records
        super().__init__(cipher, direction)

    def seal(self, pieces: Sequence[Content], out: memoryview) -> int:
        """Write ``pieces`` as data records to the start of ``out``; return the number of bytes written.

        Each piece starts a record; an empty one makes none. ``sealed_size`` of all must fit, else ValueError.
        LaneError when the key limit would be exceeded; then, as after any error, nothing must be sent.
        """
        if sum(sealed_size(len(piece)) for piece in pieces) > len(out):
            raise ValueError(f"records do not fit into {len(out)} bytes")
        number = self._take_numbers(sum(-(-len(piece) // RECORD) for piece in pieces))
        position = 0
        for piece in pieces:
            size, start = len(piece), 0
            if size > RECORD and isinstance(piece, memoryview) and not piece.readonly:
                start = (size - 1) // RECORD * RECORD
                self._seal_in_place(piece, start, number, out[position:])
            elif size > RECORD:
                start = (size - 1) // RECORD * RECORD
                self._seal_copied(piece, start, number, out[position:])
            whole = start // RECORD
            number += whole
            position += whole * _WHOLE
            if size:
                position += self._seal_last(piece[start:], number, out[position:])
                number += 1
        return position

    def _take_numbers(self, count: int) -> int:
        """Reserve ``count`` record numbers and return the first: after an error none is used again."""
        first = self.records
        if first + count > self._most:
            raise LaneError(f"TLS key limit reached: the key has protected {first} records")
        self.records = first + count
        return first

    def _seal_in_place(self, piece: memoryview, size: int, number: int, out: memoryview) -> None:
        """Seal the first ``size`` bytes of ``piece``, which is longer, as full records."""
        encrypt, iv, start, position = self._aead.encrypt_into, self._iv, 0, HEADER
        for stop in range(RECORD, size + 1, RECORD):
            behind = piece[stop]
            piece[stop] = DATA
            try:
                out[position - HEADER : position] = _HEADER
                nonce = (iv ^ number).to_bytes(IV)
                encrypt(nonce, piece[start : stop + 1], _HEADER, out[position : position + _WHOLE - HEADER])
            finally:
                piece[stop] = behind
            start = stop
            number += 1
            position += _WHOLE

    def _seal_copied(self, piece: Content, size: int, number: int, out: memoryview) -> None:
        """Do the same for read-only memory."""
        encrypt, iv, position = self._aead.encrypt_into, self._iv, HEADER
        for start in range(0, size, RECORD):
            out[position - HEADER : position] = _HEADER
            content = b"".join((piece[start : start + RECORD], _DATA))
            nonce = (iv ^ number).to_bytes(IV)
            encrypt(nonce, content, _HEADER, out[position : position + _WHOLE - HEADER])
            number += 1
            position += _WHOLE

    def _seal_last(self, content: Content, number: int, out: memoryview) -> int:
        """Seal one record of up to 16 KiB; return its size."""
        inner = b"".join((content, _DATA))
        size = OVERHEAD + len(content)
        header = _START + (size - HEADER).to_bytes(2)
        out[:HEADER] = header
        self._aead.encrypt_into((self._iv ^ number).to_bytes(IV), inner, header, out[HEADER:size])
        return size

    def record(self, kind: int, content: bytes) -> bytes:
        """Return one record of any type, with at most 16 KiB of content. LaneError as from ``seal``."""
        number = self._take_numbers(1)
        inner = content + bytes([kind])
        header = _START + (len(inner) + TAG).to_bytes(2)
        return header + self._aead.encrypt((self._iv ^ number).to_bytes(IV), inner, header)

    def update(self, *, asking: bool = False) -> bytes:
        """Return a KeyUpdate, ``asking`` for one in return, and switch to the next key (section 4.6.3)."""
        record = self.record(HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 1, asking]))
        self._take_next_key()
        return record

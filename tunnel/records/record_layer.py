"""TLS 1.3 behind its handshake, without I/O: both directions, and what TLS says beside data (RFC 8446).

What the peer may say is an alert, a session ticket, of which no use is made, or KeyUpdate, which is followed
and answered. Anything else ends the connection, with the alert that section 6.2 has for it. Nothing here runs
before the peer's certificate was accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tunnel.engine.binding import Provider
from tunnel.errors import LaneError
from tunnel.records.compiled_records import CompiledRecordOpener, CompiledRecordSealer
from tunnel.records.key_schedule import Keys
from tunnel.records.record_opener import NonDataRecord, RecordOpener, RecordViolation
from tunnel.records.record_sealer import Content, RecordSealer, sealed_size
from tunnel.records.tls_messages import (
    ALERT,
    CLOSE_NOTIFY,
    DECODE_ERROR,
    FATAL,
    HANDSHAKE,
    ILLEGAL_PARAMETER,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    RECORD,
    UNEXPECTED_MESSAGE,
    explain_alert,
)

MOST_MESSAGE = 2 * RECORD
"""Bytes of a handshake message, which waits in memory for its end: OpenSSL's tickets have some hundred."""

SPARE = sealed_size(5)
"""Bytes that ``RecordLayer.seal`` may write beside the records of its pieces: a KeyUpdate."""

_MESSAGE_HEADER = 4  # a type and a length (section 4)


class TlsEnd(NamedTuple):
    """Why nothing more comes on a connection, in words; and the alert that the peer is owed, if any."""

    reason: str
    alert: int | None


class RecordLayer:
    """One connection. ``provider`` makes its records, or else Python."""

    def __init__(self, keys: Keys, provider: Provider | None = None) -> None:
        self.cipher = keys.cipher
        self.sealer: RecordSealer
        self.opener: RecordOpener
        if provider is None:
            self.sealer = RecordSealer(keys.cipher, keys.send)
            self.opener = RecordOpener(keys.cipher, keys.receive)
        else:
            self.sealer = CompiledRecordSealer(keys.cipher, keys.send, provider)
            self.opener = CompiledRecordOpener(keys.cipher, keys.receive, provider)
        self._partial = b""  # the beginning of a handshake message
        self._asides = 0
        self._over: TlsEnd | None = None
        self._ended = False  # nothing more is said
        self.owes_update = False  # the peer asked for a KeyUpdate: the next ``seal`` begins with it

    @property
    def over(self) -> TlsEnd | None:
        """What ended the connection: nothing more is taken then."""
        return self._over

    @property
    def within_message(self) -> bool:
        """Whether a handshake message has begun, and must go on before any data."""
        return bool(self._partial)

    @property
    def records_sent(self) -> int:
        """How many records our present key has protected."""
        return self.sealer.records

    @property
    def records_received(self) -> int:
        """How many records the peer's present key has protected."""
        return self.opener.records

    # What is to be sent.

    def seal(self, pieces: Sequence[Content], out: memoryview) -> int:
        """Do what ``RecordSealer.seal`` does; ``out`` has to hold ``SPARE`` more. LaneError after ``end``."""
        update = self.update()
        position = len(update)
        out[:position] = update
        return position + self.sealer.seal(pieces, out[position:])

    def update(self) -> bytes:
        """Return a record that has to be sent before more is sealed, or b"". LaneError after ``end``."""
        if self._ended:
            raise LaneError("nothing can be sent behind the end of a TLS connection")
        if not self.owes_update:
            return b""
        self.owes_update = False
        return self.sealer.update()

    def end(self, alert: int | None = None) -> bytes:
        """Return the record that ends our side, by an alert or close_notify; b"" if it was ended before."""
        if self._ended:
            return b""
        self._ended = True
        self.owes_update = False
        try:
            return self.sealer.record(ALERT, CLOSE_NOTIFY if alert is None else bytes([FATAL, alert]))
        except LaneError:  # not even that may be protected any more
            return b""

    # What came.

    def open(self, cipher: memoryview, size: int, plain: memoryview) -> tuple[int, int, TlsEnd | None]:
        """Do what ``RecordOpener.open`` does, no further than one record that is none of data.

        Where fewer than ``size`` bytes were taken there may be whole records among the rest: ``ready``.
        Behind a TlsEnd nothing is taken any more.
        """
        if self._over is not None:
            return 0, 0, self._over
        before = self.opener.records
        taken, filled, found = self.opener.open(cipher, size, plain)
        return taken, *self.opened(self.opener.records - before, filled, found)

    def opened(
        self, records: int, filled: int, found: NonDataRecord | RecordViolation | None
    ) -> tuple[int, TlsEnd | None]:
        """Take in that the opener opened so many records, with so much content, and what it ``found`` last.

        Returns how many bytes of content are good, and what ended the connection, if it is over.
        """
        if self._partial and records > isinstance(found, NonDataRecord):
            filled, found = (
                0,
                RecordViolation(UNEXPECTED_MESSAGE, "the peer broke TLS: data within a message"),
            )
        if found is not None:
            self._over = self._judge(found)
        return filled, self._over

    def take_asides(self) -> int:
        """How many records and messages came beside data since this was last called."""
        count, self._asides = self._asides, 0
        return count

    def _judge(self, found: NonDataRecord | RecordViolation) -> TlsEnd | None:
        """What to make of something that is no data; None if the connection goes on."""
        if isinstance(found, RecordViolation):
            return TlsEnd(found.reason, found.alert)
        kind, content = found
        if kind not in {ALERT, HANDSHAKE}:
            return TlsEnd(f"the peer broke TLS: a record of type {kind}", UNEXPECTED_MESSAGE)
        if not content or (kind == ALERT and self._partial):
            return TlsEnd(f"the peer broke TLS: a record of type {kind} out of place", UNEXPECTED_MESSAGE)
        if kind == ALERT:
            return TlsEnd(explain_alert(content), None if len(content) == 2 else DECODE_ERROR)
        return self._take_messages(content)

    def _take_messages(self, content: bytes) -> TlsEnd | None:
        """Take handshake messages: some, or parts of some, in a record (section 5.1)."""
        rest, messages = self._partial + content, 0
        while len(rest) >= _MESSAGE_HEADER or (rest and rest[0] not in {NEW_SESSION_TICKET, KEY_UPDATE}):
            kind, size = rest[0], int.from_bytes(rest[1:_MESSAGE_HEADER])
            if breach := _objection_to(kind, size):
                return breach
            end = _MESSAGE_HEADER + size
            if len(rest) < end:
                break
            message, rest = rest[_MESSAGE_HEADER:end], rest[end:]
            messages += 1
            if kind == KEY_UPDATE and (breach := self._follow(message[0], alone=not rest)):
                return breach
        self._partial = rest
        self._asides += max(1, messages)
        return None

    def _follow(self, request: int, *, alone: bool) -> TlsEnd | None:
        """Take the peer's next key (section 4.6.3)."""
        if not alone:
            return TlsEnd("the peer broke TLS: KeyUpdate does not end its record", UNEXPECTED_MESSAGE)
        if request > 1:
            return TlsEnd(f"the peer broke TLS: KeyUpdate asks for {request}", ILLEGAL_PARAMETER)
        self.opener.update()
        if request and not self._ended:
            self.owes_update = True
        return None


def _objection_to(kind: int, size: int) -> TlsEnd | None:
    """Why a message of this header may not follow the handshake."""
    if kind not in {NEW_SESSION_TICKET, KEY_UPDATE}:
        return TlsEnd("the peer began another handshake", UNEXPECTED_MESSAGE)
    if size > MOST_MESSAGE or (kind == KEY_UPDATE and size != 1):
        return TlsEnd(f"the peer broke TLS: a message {kind} of {size} bytes", DECODE_ERROR)
    return None

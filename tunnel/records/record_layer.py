"""TLS 1.3 after the handshake, besides data: alerts and handshake messages of both directions (RFC 8446).

Data passes by: ``record_io`` uses ``sealer`` and ``opener`` directly. Otherwise the peer may send alerts,
session tickets, which are ignored, and KeyUpdate, which is applied and answered. Anything else ends the
connection with the alert of section 6.2. Nothing here runs before the peer's certificate was accepted.
"""

from __future__ import annotations

from typing import NamedTuple

from tunnel.engine.binding import Provider
from tunnel.errors import LaneError
from tunnel.records.compiled_records import CompiledRecordOpener, CompiledRecordSealer
from tunnel.records.key_schedule import Keys
from tunnel.records.record_opener import NonDataRecord, RecordOpener, RecordViolation
from tunnel.records.record_sealer import RecordSealer
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
"""Maximum bytes of a handshake message, which is buffered until complete: OpenSSL's tickets have hundreds."""

_MESSAGE_HEADER = 4  # a type and a length (section 4)


class TlsEnd(NamedTuple):
    """Why a connection ended, and the alert to send to the peer, if any."""

    reason: str
    alert: int | None


class RecordLayer:
    """The TLS 1.3 record protocol of one connection; records by ``provider``, or in Python without one."""

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
        self.partial = b""
        """An incomplete handshake message, which must be continued before any data."""
        self.asides = 0  # non-data records and messages received since the last ``take_asides``
        self.over: TlsEnd | None = None
        """What ended the connection; nothing is opened after that."""
        self.ended = False  # nothing more is sent
        self.owes_update = False  # the peer requested a KeyUpdate: ``update`` comes before anything else

    @property
    def records_sent(self) -> int:
        """Number of records protected with our current key."""
        return self.sealer.records

    @property
    def records_received(self) -> int:
        """Number of records protected with the peer's current key."""
        return self.opener.records

    # Sending.

    def update(self) -> bytes:
        """Return the pending KeyUpdate, to be sent before more is sealed, or b"". LaneError after ``end``."""
        if self.ended:
            raise LaneError("cannot send after the end of a TLS connection")
        if not self.owes_update:
            return b""
        self.owes_update = False
        return self.sealer.update()

    def end(self, alert: int | None = None) -> bytes:
        """Return the record that ends our direction, an alert or close_notify; b"" if it has ended before."""
        if self.ended:
            return b""
        self.ended = True
        self.owes_update = False
        try:
            return self.sealer.record(ALERT, CLOSE_NOTIFY if alert is None else bytes([FATAL, alert]))
        except LaneError:  # the key limit is reached
            return b""

    # Receiving.

    def opened(
        self, records: int, filled: int, found: NonDataRecord | RecordViolation | None
    ) -> tuple[int, TlsEnd | None]:
        """Process a result of the opener: number of records, bytes of content, and what it ``found`` last.

        Not needed for data alone: when it ``found`` nothing, and no message is ``partial``.

        Returns how many bytes of content are valid, and what ended the connection, if it has ended.
        """
        if self.partial and records > isinstance(found, NonDataRecord):
            filled, found = (
                0,
                RecordViolation(
                    UNEXPECTED_MESSAGE, "the peer violated the TLS protocol: data inside a handshake message"
                ),
            )
        if found is not None:
            self.over = self._judge(found)
        return filled, self.over

    def take_asides(self) -> int:
        """Return the number of non-data records and messages received since the last call."""
        count, self.asides = self.asides, 0
        return count

    def _judge(self, found: NonDataRecord | RecordViolation) -> TlsEnd | None:
        """Process a non-data record or a violation; return None if the connection continues."""
        if isinstance(found, RecordViolation):
            return TlsEnd(found.reason, found.alert)
        kind, content = found
        if kind not in {ALERT, HANDSHAKE}:
            return TlsEnd(f"the peer violated the TLS protocol: record of type {kind}", UNEXPECTED_MESSAGE)
        if not content or (kind == ALERT and self.partial):
            return TlsEnd(
                f"the peer violated the TLS protocol: unexpected record of type {kind}", UNEXPECTED_MESSAGE
            )
        if kind == ALERT:
            return TlsEnd(explain_alert(content), None if len(content) == 2 else DECODE_ERROR)
        return self._take_messages(content)

    def _take_messages(self, content: bytes) -> TlsEnd | None:
        """Process the handshake messages, complete or partial, of a record (section 5.1)."""
        rest, messages = self.partial + content, 0
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
        self.partial = rest
        self.asides += max(1, messages)
        return None

    def _follow(self, request: int, *, alone: bool) -> TlsEnd | None:
        """Apply a KeyUpdate of the peer (section 4.6.3)."""
        if not alone:
            return TlsEnd(
                "the peer violated the TLS protocol: KeyUpdate is not the last message of its record",
                UNEXPECTED_MESSAGE,
            )
        if request > 1:
            return TlsEnd(
                f"the peer violated the TLS protocol: KeyUpdate with request_update={request}",
                ILLEGAL_PARAMETER,
            )
        self.opener.update()
        if request and not self.ended:
            self.owes_update = True
        return None


def _objection_to(kind: int, size: int) -> TlsEnd | None:
    """Return why a message with this header is not allowed after the handshake, None if it is."""
    if kind not in {NEW_SESSION_TICKET, KEY_UPDATE}:
        return TlsEnd("the peer started another TLS handshake", UNEXPECTED_MESSAGE)
    if size > MOST_MESSAGE or (kind == KEY_UPDATE and size != 1):
        return TlsEnd(
            f"the peer violated the TLS protocol: handshake message {kind} of {size} bytes", DECODE_ERROR
        )
    return None

"""The record sealer and opener on the compiled engine: the same interface, implemented in C."""

from __future__ import annotations

from collections.abc import Sequence

from tunnel.engine.binding import Provider
from tunnel.engine.compiled import BAD_RECORD_MAC, CompiledOpener, CompiledSealer, Control, Fault
from tunnel.records.key_schedule import SUITES, Direction, key_and_iv
from tunnel.records.record_opener import NonDataRecord, RecordOpener, RecordViolation
from tunnel.records.record_sealer import Content, RecordSealer
from tunnel.records.tls_messages import DATA, OVERHEAD, SPOILT


class CompiledRecordSealer(RecordSealer):
    """``RecordSealer`` in C. Pieces may share records, and none is modified; C may fail with a LaneError."""

    def __init__(self, cipher: str, direction: Direction, provider: Provider) -> None:
        self._provider = provider
        super().__init__(cipher, direction)

    def _take_key(self, secret: bytes, number: int) -> None:
        key, iv = key_and_iv(self._cipher, secret)
        self.key = CompiledSealer(self._provider, self._cipher, key, iv, number, self._most)
        self._secret, self.records = secret, number

    def seal(self, pieces: Sequence[Content], out: memoryview) -> int:
        """Write ``pieces`` as data records to the start of ``out``; return the number of bytes written."""
        return self._seal(pieces, out, DATA)

    def record(self, kind: int, content: bytes) -> bytes:
        """Return one record of any type, with at most 16 KiB of content."""
        out = bytearray(OVERHEAD + len(content))
        return bytes(out[: self._seal([content], memoryview(out), kind)])

    def _seal(self, pieces: Sequence[Content], out: memoryview, kind: int) -> int:
        try:
            return self.key.seal(pieces, out, kind)
        finally:
            self.records = self.key.number


class CompiledRecordOpener(RecordOpener):
    """``RecordOpener`` in C."""

    def __init__(self, cipher: str, direction: Direction, provider: Provider) -> None:
        self._provider = provider
        super().__init__(cipher, direction)

    def _take_key(self, secret: bytes, number: int) -> None:
        key, iv = key_and_iv(self._cipher, secret)
        most = SUITES[self._cipher].most_records
        self.key = CompiledOpener(self._provider, self._cipher, key, iv, number, most)
        self._secret, self.records = secret, number

    def open(
        self, cipher: memoryview, size: int, plain: memoryview
    ) -> tuple[int, int, NonDataRecord | RecordViolation | None]:
        """Open the complete records in the first ``size`` bytes of ``cipher``, up to the limit of a call."""
        taken, filled, found = self.key.open(cipher, size, plain)
        self.records = self.key.number
        return taken, filled, finding(found)


def finding(event: Control | Fault | None) -> NonDataRecord | RecordViolation | None:
    """Convert an event of the engine to the types of the Python record layer."""
    if event is None:
        return None
    if isinstance(event, Control):
        return NonDataRecord(*event)
    reason = (
        SPOILT if event.alert == BAD_RECORD_MAC else f"the peer violated the TLS protocol: {event.reason}"
    )
    return RecordViolation(event.alert, reason)

"""Records by the compiled library: one object for each key of each direction (RFC 8446 section 5).

The interface is that of the Python record layer. Calls release the GIL, take a millisecond at most, and never
use a sequence number twice, even on failure. One thread at a time may call an object; a second one gets a
ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tunnel.engine.binding import BYTES, OPENED, PIECES, SUITES, Provider, ffi
from tunnel.errors import LaneError

ALERT, HANDSHAKE, DATA = 21, 22, 23
"""Content types of records (section 5.1)."""

NO_LIMIT = (1 << 64) - 1
"""The sequence number that no record may have: the next would wrap to 0 (section 5.3)."""

MOST_BYTES = 1 << 20
"""Bytes of content that one call seals or opens, to bound a loop iteration."""

RECORD = 16 * 1024
OVERHEAD = 5 + 1 + 16
"""Bytes that a record adds to its content, which is ``RECORD`` at most."""

UNEXPECTED_MESSAGE, BAD_RECORD_MAC, RECORD_OVERFLOW, INTERNAL_ERROR = 10, 20, 22, 80
"""Alerts (section 6.2)."""

Bytes = bytes | bytearray | memoryview

_CONTROL = 1
_MISUSE, _ROOM, _BUSY, _SPENT, _CIPHER = -1, -2, -3, -4, -5

_OURS = {
    _MISUSE: "invalid arguments, or more data than one call takes",
    _ROOM: "the output buffer is too small",
    _BUSY: "another thread is using the key",
}
"""Errors of the caller: nothing was done."""


class EngineError(LaneError):
    """The key can seal no more records; nothing of the call was done, or may be sent."""


class Control(NamedTuple):
    """A record that is not DATA: its content type, and its content."""

    kind: int
    content: bytes


class Fault(NamedTuple):
    """A record that ends the connection: the alert to send (section 6.2), and the reason."""

    alert: int
    reason: str


FAULTS = {
    _SPENT: Fault(INTERNAL_ERROR, "key limit reached: no more records may be protected"),
    -6: Fault(RECORD_OVERFLOW, "a record is longer than TLS allows"),
    -7: Fault(BAD_RECORD_MAC, "a record is too short"),
    -8: Fault(UNEXPECTED_MESSAGE, "a record is not encrypted"),
    -9: Fault(BAD_RECORD_MAC, "a record failed authentication"),
    -10: Fault(UNEXPECTED_MESSAGE, "a record contains only padding"),
}
"""By the library's error number."""


def sealed_size(content: int) -> int:
    """Return the size in bytes of the records for ``content`` bytes."""
    return content + -(-content // RECORD) * OVERHEAD


def point_to(pieces: Sequence[Bytes]) -> tuple[Any, list[Any]]:
    """Return a ``struct piece[]`` for the C functions, and the views to keep for as long as they use it."""
    held = [ffi.from_buffer(piece) for piece in pieces]
    return ffi.new(PIECES, [(start, len(start)) for start in held]), held


def let_go(held: Sequence[Any]) -> None:
    """Release the views of Python's memory that a call used, before an exception keeps the frame with them.

    The two may form a cycle, and CPython 3.11 crashes when its garbage collector finds a memoryview in one
    while there is a view of that.
    """
    for view in held:
        ffi.release(view)


class _Key:
    """One key of one direction, held in C; wiped when the object is freed."""

    sealing: int

    def __init__(
        self, provider: Provider, suite: str, key: bytes, iv: bytes, number: int = 0, limit: int = NO_LIMIT
    ) -> None:
        """Use ``key`` and ``iv`` for records from ``number`` on and below ``limit``."""
        length = 16 if suite == "TLS_AES_128_GCM_SHA256" else 32
        if len(key) != length or len(iv) != 12 or not 0 <= number <= limit <= NO_LIMIT:
            raise ValueError(
                f"invalid key for {suite}: {len(key)} bytes, IV {len(iv)}, records {number} to {limit}"
            )
        library = provider.library
        handle = library.mt_direction_new(
            provider.handle, SUITES.index(suite), self.sealing, key, iv, number, limit
        )
        if handle == ffi.NULL:
            raise EngineError(f"{provider.name} does not accept a key for {suite}")
        self.library = library
        self.handle = ffi.gc(handle, library.mt_direction_free)

    @property
    def number(self) -> int:
        """The sequence number of the next record: how many were sealed or opened since number 0."""
        number: int = self.library.mt_direction_number(self.handle)
        return number


class CompiledSealer(_Key):
    """Seals the records of one key."""

    sealing = 1

    def seal(self, pieces: Sequence[Bytes], out: bytearray | memoryview, kind: int = DATA) -> int:
        """Seal all ``pieces`` into consecutive records; return how many bytes of ``out`` they take.

        The pieces are ``MOST_BYTES`` at most, and none overlaps with ``out``, which needs ``sealed_size``.
        Raises EngineError when the key limit is reached, or the library failed; ValueError for misuse.
        """
        array, held = point_to(pieces)
        with ffi.from_buffer(BYTES, out, True) as room:
            count: int = self.library.mt_seal(self.handle, kind, array, len(held), room, len(room))
        let_go(held)
        if count < 0:
            raise sealing_error(count)
        return count


class CompiledOpener(_Key):
    """Opens the records of one key."""

    sealing = 0

    def open(
        self, cipher: Bytes, size: int, plain: bytearray | memoryview
    ) -> tuple[int, int, Control | Fault | None]:
        """Open the complete records at the start of the first ``size`` bytes of ``cipher``, into ``plain``.

        Returns how many bytes of ``cipher`` were consumed; how many plain bytes of DATA there are; and the
        record at which it stopped before the end. None: only the beginning of a record is left, or the limit
        of a call is reached (``MOST_BYTES``, 256 records), or ``plain`` is full. Everything before a fault is
        valid; nothing is opened after it. ``plain`` needs room for a complete record.
        """
        opened = ffi.new(OPENED)
        with ffi.from_buffer(cipher) as data, ffi.from_buffer(BYTES, plain, True) as room:
            if not 0 <= size <= len(data):
                raise ValueError(f"{size} bytes of {len(data)}")
            stop = self.library.mt_open(self.handle, data, size, room, len(room), opened)
            found = event(stop, opened, room) if stop < 0 or stop == _CONTROL else None
        return opened.consumed, opened.filled, found


def sealing_error(result: int) -> Exception:
    """Return the exception for an error of sealing."""
    if result in _OURS:
        return ValueError(_OURS[result])
    return EngineError(FAULTS[result].reason if result in FAULTS else "the library failed to encrypt")


def event(stop: int, opened: Any, room: Any) -> Control | Fault:
    """Return the record at which opening stopped. Raises ValueError for misuse."""
    if stop == _CONTROL:
        start = opened.filled
        return Control(opened.type, bytes(ffi.buffer(room)[start : start + opened.content]))
    if stop in _OURS:
        raise ValueError(_OURS[stop])
    return FAULTS[stop]

"""Payload: bytes in memory, or a reference to bytes elsewhere, such as in a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

Memory: TypeAlias = bytes | memoryview


class Payload(Protocol):
    """What payload of any kind supports: its length, slices, and the bytes by ``copied``."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Payload: ...


def copied(payload: Payload) -> bytes:
    """Return the bytes, in separate memory."""
    return bytes(cast("memoryview", payload))  # or any object with __bytes__


def in_memory(payload: Payload) -> Memory:
    """Return the bytes, copied if they are not in memory."""
    return payload if isinstance(payload, (memoryview, bytes)) else copied(payload)


@dataclass(slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` of a payload. Treat as immutable; frozen ones cost three times as much."""

    payload: Payload
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def content(self) -> Payload:
        """The part of the payload that the piece covers."""
        if self.stop - self.start == len(self.payload):
            return self.payload
        return self.payload[self.start : self.stop]


@dataclass(slots=True)
class Outgoing:
    """A DATA frame for a lane to send: the header's bytes, immediately followed by the piece's.

    Treat as immutable; see Piece.
    """

    header: bytes
    piece: Piece

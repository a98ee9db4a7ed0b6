"""Payload: bytes, or a promise of bytes that lie elsewhere, such as in a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

Memory: TypeAlias = bytes | memoryview


class Payload(Protocol):
    """What is asked of payload of any kind: its length, parts of it, and by ``copied`` the bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Payload: ...


def copied(payload: Payload) -> bytes:
    """Return the bytes, in memory of their own."""
    return bytes(cast("memoryview", payload))  # or whatever has __bytes__


def in_memory(payload: Payload) -> Memory:
    """Return the bytes, copied if they are elsewhere."""
    return payload if isinstance(payload, (memoryview, bytes)) else copied(payload)


@dataclass(slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` of a payload. Not to be changed; frozen ones cost three times as much."""

    payload: Payload
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def content(self) -> Payload:
        """The payload without what is not of the piece."""
        if self.stop - self.start == len(self.payload):
            return self.payload
        return self.payload[self.start : self.stop]


@dataclass(slots=True)
class Outgoing:
    """A DATA frame for a lane to send: the header's bytes, then the piece's, with nothing between.

    Not to be changed; see Piece.
    """

    header: bytes
    piece: Piece

"""The content of streams in simulations of sessions: a function of sender, stream and offset."""

from __future__ import annotations

import random

from tunnel.wire.payload import Outgoing

_NOISE = random.Random(16515).randbytes(1 << 18)


def content(stream: int, initiator: bool, start: int, stop: int) -> bytes:
    """Return what the ``initiator``, or the acceptor, sends on ``stream`` from byte ``start`` to ``stop``."""
    first = (stream * 2 + initiator) * 7919 % 65536
    return _NOISE[first + start : first + stop]


def written(outgoing: Outgoing) -> bytes:
    """Return the bytes of a DATA frame whose payload is ``bytes``."""
    piece = outgoing.piece
    assert isinstance(piece.payload, bytes)
    return outgoing.header + piece.payload[piece.start : piece.stop]

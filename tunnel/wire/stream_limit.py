"""How many streams either side may have open at the same time: SPEC.md section 5."""

from __future__ import annotations

from tunnel.errors import ProtocolError, RefusedError
from tunnel.wire.codec import MAX_STREAMS
from tunnel.wire.codes import Code


class StreamLimit:
    """Limits of one session: ``allowed`` is what the peer allows us, ``granted`` what we allow the peer."""

    def __init__(self, allowed: int, granted: int) -> None:
        self.allowed = min(allowed, MAX_STREAMS)
        self.granted = min(granted, MAX_STREAMS)
        self._ours = 0
        self._theirs = 0

    @property
    def vacant(self) -> int:
        """How many more streams we may open now."""
        return self.allowed - self._ours

    @property
    def theirs(self) -> int:
        """How many streams the peer has open."""
        return self._theirs

    @property
    def is_full(self) -> bool:
        """Whether the peer has as many streams open as we allow."""
        return self._theirs == self.granted

    def take_ours(self) -> None:
        """Count a stream that we open. RefusedError when the peer allows no more."""
        if not self.vacant:
            reason = f"the peer allows {self.allowed} streams at once (its transport.streams), all are in use"
            raise RefusedError(reason, Code.STREAM_LIMIT)
        self._ours += 1

    def take_theirs(self) -> None:
        """Count a stream that the peer opens. ProtocolError when that is more than we allow."""
        if self.is_full:
            raise ProtocolError(Code.STREAM_LIMIT, f"more than {self.granted} streams")
        self._theirs += 1

    def give_back(self, *, ours: bool) -> None:
        """Count a stream that has ended."""
        if ours:
            self._ours -= 1
        else:
            self._theirs -= 1

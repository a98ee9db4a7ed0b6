"""The control channel: sequenced frames, kept until acknowledged, sent again on a new lane.

It is stream 0, with whole frames as its units: a frame's offset is its number, CREDIT on stream 0
acknowledges and limits, and what a lane lost is replayed. So OPEN, FIN, RESET and their answers take effect
exactly once and in order, even when lanes are lost.
"""

from __future__ import annotations

from collections import deque

from tunnel.wire.codec import encode
from tunnel.wire.frames import ControlFrame
from tunnel.wire.window import ReceiveWindow, SendWindow

CROWDED = 16384
"""Unacknowledged frames of ours from which on neither side may open a stream."""


class ControlChannel:
    """Both directions. ``window`` is what we grant the peer, ``peer_window`` what it grants us, in frames."""

    def __init__(self, window: int, peer_window: int) -> None:
        self.out = SendWindow(peer_window)
        self.into = ReceiveWindow(window)
        self.acknowledge = False
        self.pending = False
        """Whether ``pop`` has a frame to send."""
        self._next = 0
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._held: dict[int, ControlFrame] = {}

    def push(self, frame: ControlFrame) -> None:
        """Queue a frame under the next number."""
        self._waiting.append((self._next, encode(frame, self._next)))
        self._next += 1
        self._update()

    def _update(self) -> None:
        """Update ``pending``: the queue or the limit has changed."""
        waiting = self._waiting
        self.pending = bool(waiting) and waiting[0][0] < self.out.limit

    @property
    def crowded(self) -> bool:
        """Whether the peer must acknowledge some of our frames before it gets, or causes, more."""
        return len(self._waiting) + len(self._kept) >= CROWDED

    def pop(self) -> bytes:
        """Return the bytes of the next frame, and keep them for replay. Only while ``pending``."""
        number, raw = self._waiting.popleft()
        self._kept.append((number, raw))
        self.out.sent = max(self.out.sent, number + 1)
        self._update()
        return raw

    def credited(self, delivered: int, limit: int) -> None:
        """Process CREDIT on stream 0."""
        self.out.credit(delivered, limit)
        for queue in (self._kept, self._waiting):  # a queued copy may be acknowledged too
            while queue and queue[0][0] < self.out.delivered:
                queue.popleft()
        self._update()

    def rewind(self) -> None:
        """Queue all kept frames again."""
        self._waiting.extendleft(reversed(self._kept))
        self._kept.clear()
        self._update()

    def arrived(self, frame: ControlFrame, number: int) -> list[ControlFrame]:
        """Return the frames to process now, in order; [] for a duplicate or while one is missing."""
        self.into.check(number, 1)
        if number < self.into.received or number in self._held:
            return []
        self._held[number] = frame
        frames = []
        while (held := self._held.pop(self.into.received, None)) is not None:
            self.into.received += 1
            frames.append(held)
        if frames and self.into.deliver(len(frames)):
            self.acknowledge = True
        return frames

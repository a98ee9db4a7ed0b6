"""What a sender may have under way: its memory, since all of it is kept until the peer has delivered it.

The memory is one bound for all streams, and every stream has a floor beyond it. Frames are counted with what
they cost beside their payload, so that many small ones are no way around the bound.
"""

from __future__ import annotations

from tunnel.wire.codes import KIB, MAX_DATA
from tunnel.wire.stream import KEPT_COST, Stream
from tunnel.wire.window import KEEP_FLOOR

SLIVER = 1 * KIB
"""Less is not sent while more than that is under way: each frame that is kept costs some memory besides."""


class Retention:
    """``memory`` is bytes; ``kept`` are those of payload, and ``frames`` what they came in."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.kept = 0
        self.frames = 0

    @property
    def free(self) -> int:
        """Bytes of the memory that no stream uses; less than 0 when some use their floors."""
        return self.memory - self.kept - KEPT_COST * self.frames

    def allowance(self, stream: Stream) -> int:
        """How many bytes ``stream`` may send: by its window, and by what it may keep. Perhaps less than 0."""
        out = stream.out
        return min(out.limit - out.sent, self._left(stream) - KEPT_COST, MAX_DATA)

    def offer(self, stream: Stream) -> int:
        """What ``stream`` may be told to send: all of its allowance, or nothing while that is a sliver.

        A peer that grants byte by byte would else have us keep a frame for each byte. This waits for nothing
        that does not come: with less than a quarter of the window left, the rest of it is under way, and the
        peer owes credit for its first quarter; or else our memory is full, and more than a sliver is.
        """
        allowance, out = self.allowance(stream), stream.out
        sliver = allowance < SLIVER and allowance * 4 < out.limit - out.delivered
        return 0 if sliver and out.sent > out.delivered else allowance

    def starves(self, stream: Stream) -> bool:
        """Whether it is memory that keeps ``stream`` from sending, and not its window."""
        return self._left(stream) - KEPT_COST < stream.out.limit - stream.out.sent

    def short(self, stream: Stream) -> bool:
        """Whether what ``stream`` may keep is half used up, and the peer's window too large to show that.

        CREDIT is due for a quarter of the window. Who cannot have so much under way has to ask for it.
        """
        out = stream.out
        under_way = out.sent - out.delivered
        return under_way * 4 < out.limit - out.delivered and self._left(stream) < stream.cost

    def _left(self, stream: Stream) -> int:
        return max(self.free, KEEP_FLOOR - stream.cost)

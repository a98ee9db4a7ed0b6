"""What a sender may have under way: its memory, since all of it is kept until the peer has delivered it.

The memory is one bound for all streams, and every stream has a floor beside it. What streams that stand still
from their beginning cannot take is a reserve for the others. Frames are counted with what they cost beside
their payload, so that many small ones are no way around the bound.
"""

from __future__ import annotations

from tunnel.units import KIB
from tunnel.wire.codes import MAX_DATA
from tunnel.wire.stream import KEPT_COST, Stream
from tunnel.wire.window import KEEP_FLOOR, RESERVE

SLIVER = 1 * KIB
"""Less is not sent while more than that is under way: each frame that is kept costs some memory besides."""


class Retention:
    """``memory`` is bytes; ``kept`` are those of payload, ``used`` those of the memory, beside floors."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.kept = 0
        self.used = 0

    def keep(self, stream: Stream, count: int, frames: int = 1) -> None:
        """``count`` bytes more of ``stream``, in ``frames``, are kept by now."""
        cost = stream.cost
        self.kept += count
        self.used += _beyond_floor(cost) - _beyond_floor(cost - count - KEPT_COST * frames)

    def release(self, stream: Stream, count: int, frames: int) -> None:
        """``count`` bytes in ``frames`` are not kept any longer by now."""
        cost = stream.cost
        self.kept -= count
        self.used -= _beyond_floor(cost + count + KEPT_COST * frames) - _beyond_floor(cost)

    def forget(self, stream: Stream) -> None:
        """Nothing of ``stream`` is kept any longer."""
        self.kept -= stream.out.unacknowledged
        self.used -= _beyond_floor(stream.cost)

    def free(self, *, carried: bool) -> int:
        """Bytes of the memory that streams may still use which have carried something, or others."""
        return self.memory - self.used - (0 if carried else self.memory // RESERVE)

    def allowance(self, stream: Stream, most: int = MAX_DATA) -> int:
        """How many bytes ``stream`` may send: by its window, and by what it may keep. Perhaps less than 0."""
        out = stream.out
        return min(out.limit - out.sent, self._left(stream) - KEPT_COST, most)

    def offer(self, stream: Stream, most: int = MAX_DATA) -> int:
        """What ``stream`` may be told to send: all of its allowance, or nothing while that is a sliver.

        A peer that grants byte by byte would else have us keep a frame for each byte. This waits for nothing
        that does not come: with less than a quarter of the window left, the rest of it is under way, and the
        peer owes credit for its first quarter; or else our memory is full, and more than a sliver is.
        """
        allowance, out = self.allowance(stream, most), stream.out
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
        return max(0, KEEP_FLOOR - stream.cost) + max(0, self.free(carried=stream.out.carried))


def _beyond_floor(cost: int) -> int:
    return max(0, cost - KEEP_FLOOR)

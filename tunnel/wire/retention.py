"""The sender's memory: everything in flight is kept until the peer has delivered it.

The memory is one limit for all streams, and every stream has a floor beside it. A part of it is reserved for
streams that are not stalled from the start. Frames count with their overhead beside the payload, so that many
small ones cannot evade the limit.
"""

from __future__ import annotations

from tunnel.units import KIB
from tunnel.wire.codes import MAX_DATA
from tunnel.wire.stream import KEPT_COST, Stream
from tunnel.wire.window import KEEP_FLOOR, RESERVE

SLIVER = 1 * KIB
"""Less is not sent while more than that is in flight: each frame that is kept has an overhead."""


class Retention:
    """Accounts for kept bytes. ``memory`` is the limit; ``kept`` is payload, ``used`` memory above floors."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.kept = 0
        self.used = 0

    def keep(self, stream: Stream, count: int, frames: int = 1) -> None:
        """Account for ``count`` more bytes of ``stream``, in ``frames``, that are kept by now."""
        cost = stream.cost
        self.kept += count
        self.used += _beyond_floor(cost) - _beyond_floor(cost - count - KEPT_COST * frames)

    def release(self, stream: Stream, count: int, frames: int) -> None:
        """Account for ``count`` bytes of ``stream``, in ``frames``, that are no longer kept."""
        cost = stream.cost
        self.kept -= count
        self.used -= _beyond_floor(cost + count + KEPT_COST * frames) - _beyond_floor(cost)

    def forget(self, stream: Stream) -> None:
        """Account for the release of everything that ``stream`` keeps."""
        self.kept -= stream.out.unacknowledged
        self.used -= _beyond_floor(stream.cost)

    def free(self, *, carried: bool) -> int:
        """Return the bytes of memory left for streams that have ``carried`` something, or for others."""
        return self.memory - self.used - (0 if carried else self.memory // RESERVE)

    def allowance(self, stream: Stream, most: int = MAX_DATA) -> int:
        """Return how many bytes ``stream`` may send, by its window and by memory. May be negative."""
        out = stream.out
        return min(out.limit - out.sent, self._left(stream) - KEPT_COST, most)

    def offer(self, stream: Stream, most: int = MAX_DATA) -> int:
        """Return the allowance of ``stream``, or 0 while that is a sliver.

        Otherwise a peer that grants credit byte by byte would make us keep a frame per byte. This cannot
        deadlock: with less than a quarter of the window left, the rest of it is in flight, and the peer has
        to send CREDIT for its first quarter; or else our memory is full, and more than a sliver is in flight.
        """
        allowance, out = self.allowance(stream, most), stream.out
        sliver = allowance < SLIVER and allowance * 4 < out.limit - out.delivered
        return 0 if sliver and out.sent > out.delivered else allowance

    def starves(self, stream: Stream) -> bool:
        """Whether memory keeps ``stream`` from sending, and not its window."""
        return self._left(stream) - KEPT_COST < stream.out.limit - stream.out.sent

    def short(self, stream: Stream) -> bool:
        """Whether half of what ``stream`` may keep is used, and the peer's window too large to show that.

        CREDIT is due for a quarter of the window. A sender that cannot have so much in flight has to request
        it.
        """
        out = stream.out
        under_way = out.sent - out.delivered
        return under_way * 4 < out.limit - out.delivered and self._left(stream) < stream.cost

    def _left(self, stream: Stream) -> int:
        return max(0, KEEP_FLOOR - stream.cost) + max(0, self.free(carried=stream.out.carried))


def _beyond_floor(cost: int) -> int:
    return max(0, cost - KEEP_FLOOR)

"""The order in which streams send: start-time fair queueing, by bytes.

Every stream has a *tag*, the virtual time at which its next byte would leave if the link were shared evenly.
The lowest tag goes first. A stream that was idle joins a head start before the present virtual time, hence
before every stream that has been sending: a post-copy page request does not queue behind gigabytes, nor
behind one batch of each of many streams that share a tag. A longer idle time earns no more than that, and a
stream with a head start sends no more than that in one quantum: otherwise many bulk streams that begin
together would each pass a sparse one with a whole batch.

A stream that does not use up its head start is *sparse*: it sends a few bytes at a time, and its application
waits for each. While one is active, quanta are small, since what it sends next waits for the current quantum.
(Goyal, Vin, Cheng: Start-time Fair Queueing, 1996; there without the head start.)
"""

from __future__ import annotations

from bisect import bisect_left, insort

from tunnel.units import KIB, MIB

HEAD_START = 64 * KIB
"""Bytes that a stream which was idle may send before the others: some pages, or an RPC call."""

QUANTUM = 1 * MIB
"""Bytes sent before the owner's loop serves others."""

LONG_QUANTUM = 4 * MIB
"""The same for lanes that prefer a large quantum."""

SMALL_QUANTUM = 256 * KIB
"""The same while a sparse stream is active: smaller quanta cost more for each byte."""

CHANNELS = 8
"""Streams that one guest may send in bulk, such as multifd's, whose main channel is sparse.

Up to that many, a lane that prefers a large quantum gets ``QUANTUM`` beside a sparse stream, which takes less
than a millisecond; with more streams, less.
"""

SPARSE_HORIZON = 64 * MIB
"""Bytes that others send until a sparse stream is considered gone: tens of milliseconds."""


class Scheduler:
    """Fair queueing of the streams that have something to send."""

    def __init__(self) -> None:
        self.turn = QUANTUM
        self._about = 0  # bytes to send in small quanta: a sparse stream is active
        self._now = 0  # virtual time: bytes of one fair share
        self._tags: dict[int, int] = {}
        self._order: list[tuple[int, int]] = []  # (tag, stream) of the ready ones, sorted
        self._ready: set[int] = set()

    def __len__(self) -> int:
        return len(self._order)

    def ready(self, stream: int) -> None:
        """Add ``stream``, which has something to send. Idempotent."""
        if stream not in self._ready:
            tag = self._tags[stream] = self._due(stream)
            insort(self._order, (tag, stream))
            self._ready.add(stream)

    def idle(self, stream: int) -> None:
        """Remove ``stream``, which has nothing to send, or may not."""
        if stream in self._ready:
            self._order.pop(bisect_left(self._order, (self._tags[stream], stream)))
            self._ready.discard(stream)

    def forget(self, stream: int) -> None:
        """Drop ``stream``, which is closed."""
        self.idle(stream)
        self._tags.pop(stream, None)

    def next(self) -> int | None:
        """Return the stream that sends next, which stays ready; None when none is."""
        if not self._order:
            return None
        tag, stream = self._order[0]
        self._now = max(self._now, tag)
        return stream

    @property
    def long_turn(self) -> int:
        """As ``turn``, for lanes that prefer a large quantum."""
        if not self._about:
            return LONG_QUANTUM
        return QUANTUM if len(self._order) <= CHANNELS else SMALL_QUANTUM

    def share(self, stream: int, allowance: int) -> int:
        """Return how many bytes of its ``allowance`` the stream that sends next may send in this quantum."""
        if self._tags[stream] < self._now:
            return min(allowance, HEAD_START)
        return min(allowance, QUANTUM) if len(self._order) > 1 else allowance

    def sent(self, stream: int, count: int) -> None:
        """Account for ``count`` bytes that ``stream`` sent."""
        tag = self._due(stream) + count
        if stream in self._ready:
            order = self._order
            del order[bisect_left(order, (self._tags[stream], stream))]
            insort(order, (tag, stream))
        self._tags[stream] = tag
        self._about = SPARSE_HORIZON if tag < self._now else max(0, self._about - count)
        self.turn = SMALL_QUANTUM if self._about else QUANTUM

    def _due(self, stream: int) -> int:
        return max(self._now - HEAD_START, self._tags.get(stream, -HEAD_START))

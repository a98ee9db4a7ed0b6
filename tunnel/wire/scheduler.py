"""Which stream may send next: start-time fair queueing, by bytes.

Every stream has a *tag*, the virtual time at which its next byte would leave if the link were shared
evenly. The lowest tag goes first. A stream that was idle joins a head start before the present virtual time,
hence before every stream that has been sending: a post-copy page request does not queue behind gigabytes,
nor behind one batch of each of many streams that share a tag. Being idle for longer earns no more than that,
and whoever has a head start sends no more than that in one turn: many bulk streams that begin at once would
pass it with a whole batch each.

A stream that does not use its head start up is *sparse*: somebody waits for few bytes, and soon for a few
more. While one is about turns are short, since what it says next waits for the turn that is under way.
(Goyal, Vin, Cheng: Start-time Fair Queueing, 1996; there without the head start.)
"""

from __future__ import annotations

from bisect import bisect_left, insort

from tunnel.units import KIB, MIB

HEAD_START = 64 * KIB
"""Bytes that a stream which was idle may send before those that were not: some pages, or an RPC call."""

QUANTUM = 1 * MIB
"""Bytes that leave before the owner's loop serves others."""

LONG_QUANTUM = 4 * MIB
"""The same where somebody moves payload who prefers long turns."""

SMALL_QUANTUM = 256 * KIB
"""The same while a sparse stream is about: smaller turns cost more for each byte."""

CHANNELS = 8
"""Streams that one guest may send in bulk, such as multifd's, whose main channel is sparse. Beside no more of
them a lane that prefers long turns gets ``QUANTUM``, which takes less than a millisecond; beside more, less.
"""

SPARSE_HORIZON = 64 * MIB
"""Bytes of others that leave until a sparse stream is thought to be gone: tens of milliseconds."""


class Scheduler:
    """The streams that have something to send."""

    def __init__(self) -> None:
        self.turn = QUANTUM
        self._about = 0  # bytes that are to leave in short turns
        self._now = 0  # virtual time: bytes of one fair share
        self._tags: dict[int, int] = {}
        self._order: list[tuple[int, int]] = []  # (tag, stream) of the ready ones, sorted
        self._ready: set[int] = set()

    def __len__(self) -> int:
        return len(self._order)

    def ready(self, stream: int) -> None:
        """``stream`` has something to send. Saying so twice changes nothing."""
        if stream not in self._ready:
            tag = self._tags[stream] = self._due(stream)
            insort(self._order, (tag, stream))
            self._ready.add(stream)

    def idle(self, stream: int) -> None:
        """``stream`` has nothing to send, or may not."""
        if stream in self._ready:
            self._order.pop(bisect_left(self._order, (self._tags[stream], stream)))
            self._ready.discard(stream)

    def forget(self, stream: int) -> None:
        """``stream`` is closed."""
        self.idle(stream)
        self._tags.pop(stream, None)

    def next(self) -> int | None:
        """Return the stream whose turn it is, which stays ready; None when none is."""
        if not self._order:
            return None
        tag, stream = self._order[0]
        self._now = max(self._now, tag)
        return stream

    @property
    def long_turn(self) -> int:
        """As ``turn``, for who prefers long ones."""
        if not self._about:
            return LONG_QUANTUM
        return QUANTUM if len(self._order) <= CHANNELS else SMALL_QUANTUM

    def share(self, stream: int, allowance: int) -> int:
        """Return how many bytes of its ``allowance`` the stream whose turn it is may send in that turn."""
        if self._tags[stream] < self._now:
            return min(allowance, HEAD_START)
        return min(allowance, QUANTUM) if len(self._order) > 1 else allowance

    def sent(self, stream: int, count: int) -> None:
        """``count`` bytes of ``stream`` left."""
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

"""What is sent next: the order in which streams send, and how many bytes may be in flight.

The order is start-time fair queueing, by bytes (``Scheduler``). Every stream has a *tag*, the virtual time at
which its next byte would leave if the link were shared evenly. The lowest tag goes first. A stream that was
idle joins a head start before the present virtual time, hence before every stream that has been sending: a
post-copy page request does not queue behind gigabytes, nor behind one batch of each of many streams that
share a tag. A longer idle time earns no more than that, and a stream with a head start sends no more than
that in one quantum: otherwise many bulk streams that begin together would each pass a sparse one with a whole
batch.

A stream that does not use up its head start is *sparse*: it sends a few bytes at a time, and its application
waits for each. While one is active, quanta are small, since what it sends next waits for the current quantum.
(Goyal, Vin, Cheng: Start-time Fair Queueing, 1996; there without the head start.)

Everything in flight is kept until the peer has delivered it, in memory that is limited (``Retention``): one
limit for all streams, and a floor for each beside it. A part is reserved for streams that are not stalled
from the start. Frames count with their overhead beside the payload, so that many small ones cannot evade the
limit.

A stream waits for credit of its own or, where our memory is the limit, for credit of any stream
(``SendQueue``). The two are separate: however many stalled streams there are, credit for another one costs
nothing for them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping

from tunnel.units import KIB, MIB
from tunnel.wire.codes import MAX_DATA
from tunnel.wire.stream import KEPT_COST, Stream
from tunnel.wire.window import CARRIED, KEEP_FLOOR, RESERVE

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

SLIVER = 1 * KIB
"""Less is not sent while more than that is in flight: each frame that is kept has an overhead."""


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


class Retention:
    """Accounts for kept bytes. ``memory`` is the limit; ``kept`` is payload, ``used`` memory above floors."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.kept = 0
        self.used = 0

    def keep(self, stream: Stream, count: int, frames: int = 1) -> None:
        """Account for ``count`` more bytes of ``stream``, in ``frames``, that are kept by now."""
        self.kept += count
        if (beyond := stream.cost - KEEP_FLOOR) > 0:
            self.used += min(beyond, count + KEPT_COST * frames)

    def release(self, stream: Stream, count: int, frames: int) -> None:
        """Account for ``count`` bytes of ``stream``, in ``frames``, that are no longer kept."""
        cost = count + KEPT_COST * frames
        self.kept -= count
        if (beyond := stream.cost + cost - KEEP_FLOOR) > 0:
            self.used -= min(beyond, cost)

    def forget(self, stream: Stream) -> None:
        """Account for the release of everything that ``stream`` keeps."""
        self.kept -= stream.out.unacknowledged
        self.used -= max(0, stream.cost - KEEP_FLOOR)

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
        """Return the bytes of memory left for ``stream``: the rest of its floor, and what is free."""
        free = self.memory - self.used
        if stream.out.delivered < CARRIED:
            free -= self.memory // RESERVE
        return max(0, KEEP_FLOOR - stream.cost) + max(0, free)


class SendQueue:
    """Selects the stream that sends next. ``streams`` are those of the session; ``memory`` is bytes."""

    def __init__(self, memory: int, streams: Mapping[int, Stream]) -> None:
        self.retention = Retention(memory)
        self.scheduler = Scheduler()
        self._streams = streams
        self._blocked: set[int] = set()  # have something to send, and wait for credit of their own
        # Those that wait for memory: True for those that may use its reserve.
        self._starved: dict[bool, set[int]] = {True: set(), False: set()}

    def allot(self, memory: int) -> None:
        """Set the memory to ``memory`` bytes."""
        self.retention.memory = memory
        self._feed()

    def waits(self, number: int) -> bool:
        """Whether ``number`` has something to send, and is blocked."""
        return any(number in waiting for waiting in (self._blocked, *self._starved.values()))

    def ready(self, stream: Stream) -> None:
        """Add ``stream``, which has something to send."""
        if self.retention.offer(stream) > 0:
            self.scheduler.ready(stream.number)
        else:
            self._block(stream)

    def idle(self, number: int) -> None:
        """Remove ``number``, which has nothing to send for now."""
        self.scheduler.idle(number)
        self._stop_waiting(number)

    def pick(self, most: int = MAX_DATA) -> tuple[int, int] | None:
        """Return the stream that sends next, and how many bytes it may send now: 1 to ``most``."""
        scheduler = self.scheduler
        while (number := scheduler.next()) is not None:
            stream = self._streams[number]
            if (allowance := self.retention.offer(stream, most)) > 0:
                return number, scheduler.share(number, allowance)
            self._block(stream)
            scheduler.idle(number)
        return None

    def sent(self, stream: Stream, length: int, frames: int = 1) -> bool:
        """Account for ``length`` bytes of ``stream``, in ``frames``; return whether to request credit."""
        self.retention.keep(stream, length, frames)
        self.scheduler.sent(stream.number, length)
        return not stream.asking and self.retention.short(stream)

    def released(self, stream: Stream, count: int, frames: int) -> None:
        """Account for credit of ``stream``: ``count`` bytes in ``frames`` are no longer kept."""
        self.retention.release(stream, count, frames)
        if self.waits(stream.number):
            self._retry((stream.number,))
        self._feed()

    def forget(self, stream: Stream) -> None:
        """Drop ``stream``, which is closed."""
        self.scheduler.forget(stream.number)
        self._stop_waiting(stream.number)
        self.retention.forget(stream)
        self._feed()

    def retry(self) -> None:
        """Check all blocked streams: the peer's positions may have unblocked any."""
        self._retry(self._blocked.union(*self._starved.values()))

    def _block(self, stream: Stream) -> None:
        starves = self.retention.starves(stream)
        waiting = self._starved[stream.out.carried] if starves else self._blocked
        waiting.add(stream.number)

    def _stop_waiting(self, number: int) -> None:
        for waiting in (self._blocked, *self._starved.values()):
            waiting.discard(number)

    def _feed(self) -> None:
        """Unblock streams that wait for memory, if some is free."""
        for carried, waiting in self._starved.items():
            if waiting and self.retention.free(carried=carried) > KEPT_COST + SLIVER:
                self._retry(tuple(waiting))

    def _retry(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._stop_waiting(number)
            self.ready(self._streams[number])

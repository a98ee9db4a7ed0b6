"""The open streams of a session: their numbers, how many there may be, and the memory of their windows."""

from __future__ import annotations

from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.wire.codes import MAX_STREAM_ID, Code, FrameType
from tunnel.wire.frames import Limits, Open
from tunnel.wire.states import StreamPhase
from tunnel.wire.stream import Stream
from tunnel.wire.stream_limit import StreamLimit
from tunnel.wire.window import MemoryBudget


class StreamRegistry:
    """Streams by number. ``ours`` and ``theirs`` are the limits of open streams that either side opens.

    The initiator opens odd streams, the acceptor even ones, in ascending order. ``window`` is the initial
    receive window of a stream and ``memory`` that of all of them, in bytes.
    """

    def __init__(self, ours: Limits, theirs: Limits, memory: int, window: int, *, initiator: bool) -> None:
        self.by_number: dict[int, Stream] = {}
        self.places = StreamLimit(ours.streams, theirs.streams)
        self.budget = MemoryBudget(memory)
        self._window = window
        self._first = 1 if initiator else 2
        self._next = self._first
        self._highest_from_peer = 0

    def is_ours(self, number: int) -> bool:
        """Whether our side opens streams with such a number."""
        return number % 2 == self._first % 2

    def open(self, target: str) -> Stream:
        """Add a stream of ours. Raises RefusedError when the peer accepts no more."""
        if self._next > MAX_STREAM_ID:
            raise RefusedError("this session has used up its stream numbers", Code.STREAM_LIMIT)
        self.places.take_ours()
        number, self._next = self._next, self._next + 2
        return self._add(number, target, StreamPhase.OPENING)

    def requested(self, frame: Open) -> Stream:
        """Add a stream of the peer. Raises ProtocolError."""
        number = frame.stream
        if self.is_ours(number) or number <= self._highest_from_peer:
            raise ProtocolError(
                Code.STREAM_STATE, f"OPEN of stream {number}: number reused or of the wrong parity"
            )
        self.places.take_theirs()
        self._highest_from_peer = number
        stream = self._add(number, frame.target, StreamPhase.DIALLING)
        stream.out.limit = frame.limit
        return stream

    def _add(self, number: int, target: str, phase: StreamPhase) -> Stream:
        window = self.budget.take(self._window)
        stream = self.by_number[number] = Stream(number, target, phase, window)
        return stream

    def get(self, number: int) -> Stream:
        """Return an open stream. Raises MisuseError."""
        try:
            return self.by_number[number]
        except KeyError:
            raise MisuseError(Code.STREAM_STATE, f"stream {number} is not open") from None

    def find(self, number: int, what: FrameType) -> Stream | None:
        """Return the stream of a frame from the peer; None if it is closed already. Raises ProtocolError."""
        stream = self.by_number.get(number)
        highest = self._next - 2 if self.is_ours(number) else self._highest_from_peer
        if stream is None and number > highest:
            raise ProtocolError(Code.STREAM_STATE, f"{what.name} on stream {number}, which was never opened")
        return stream

    def remove(self, stream: Stream) -> None:
        """Remove a stream that is closed."""
        del self.by_number[stream.number]
        self.places.give_back(ours=stream.ours)
        self.budget.give_back(stream.into.size)

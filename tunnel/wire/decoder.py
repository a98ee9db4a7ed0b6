"""Splitting a lane's bytes into frames, without touching payload.

The decoder consumes headers and control frames. After the header of DATA it stops: the next ``payload_left``
bytes of the lane belong to that stream; the lane moves them by whatever means it has (into a buffer, through
a pipe) and reports each piece with ``moved``.
"""

from __future__ import annotations

from tunnel.wire.codec import Header, parse, parse_header
from tunnel.wire.codes import HEADER_SIZE, FrameType
from tunnel.wire.frames import Data, Frame
from tunnel.wire.payload import Memory


class Decoder:
    """The receiving direction of one lane. Holds at most one control frame (64 KiB)."""

    def __init__(self) -> None:
        self.payload_left = 0
        self.stream = 0
        self.offset = 0
        self.sequence = 0  # of the control frame that feed() returned last, if it has one
        self._partial = bytearray()
        self._header: Header | None = None
        self._data = False  # whether the last frame is DATA

    @property
    def wanted(self) -> int:
        """How many bytes ``feed`` needs to complete a header or frame: never more than the frame has."""
        if self._header is None:
            return HEADER_SIZE - len(self._partial)
        return self._header.length - len(self._partial)

    def feed(self, data: Memory) -> tuple[int, Frame | None]:
        """Consume bytes up to the end of the next header or control frame: ``(taken, frame or None)``.

        Must not be called while ``payload_left``. Raises ProtocolError; the lane is unusable afterwards.
        """
        taken = 0
        if self._header is None:
            if self._partial or len(data) < HEADER_SIZE:
                taken = self._fill(data, HEADER_SIZE)
                if len(self._partial) < HEADER_SIZE:
                    return taken, None
                self._header = parse_header(self._partial)
                self._partial.clear()
            else:
                taken = HEADER_SIZE
                self._header = parse_header(data)
        header = self._header
        if header.type is FrameType.DATA:
            return taken, self._begin_payload(header)
        taken += self._fill(data[taken:], header.length)
        if len(self._partial) < header.length:
            return taken, None
        payload = bytes(self._partial)
        self._partial.clear()
        self._header, self._data = None, False
        self.sequence = header.offset
        return taken, parse(header, payload)

    @property
    def follows_data(self) -> bool:
        """Whether the last frame is DATA, and no byte after it was consumed."""
        return self._data and self._header is None and not self._partial

    def went_on(self, stream: int, offset: int, left: int) -> None:
        """Payload left the lane, last of ``stream`` up to ``offset``; ``left`` bytes of its frame remain."""
        self.stream, self.offset, self.payload_left = stream, offset, left

    def moved(self, count: int) -> None:
        """Record that ``count`` payload bytes left the lane."""
        self.payload_left -= count
        self.offset += count

    def _fill(self, data: Memory, size: int) -> int:
        taken = min(size - len(self._partial), len(data))
        self._partial += data[:taken]
        return taken

    def _begin_payload(self, header: Header) -> Data:
        self._header, self._data = None, True
        self.payload_left, self.stream, self.offset = header.length, header.stream, header.offset
        return Data(header.stream, header.offset, header.length)

"""One lane's part of the protocol, without I/O: its frames, its state, PING and PONG, GOAWAY.

The owner of the connection feeds it received bytes, and sends the bytes that the other methods return. The
decoder consumes headers and control frames. After the header of DATA it stops: the next ``payload_left``
bytes of the lane belong to that stream; the owner moves them by whatever means it has (into a buffer, through
a pipe) and reports each piece with ``moved``. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from tunnel.wire.codec import HEADER, Header, encode, parse, parse_header
from tunnel.wire.codes import HEADER_SIZE, MAX_DATA, Code, FrameType
from tunnel.wire.frames import Data, Frame, GoAway, Ping, Pong
from tunnel.wire.keepalive import Keepalive
from tunnel.wire.payload import Memory
from tunnel.wire.states import LANE, Call, LaneState, step

_DATA = FrameType.DATA.value


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

    def begin(self, data: Memory) -> bool:
        """Consume the valid header of a DATA frame; if ``data`` begins otherwise, return False.

        Does what ``feed`` does for such a header, without the objects for it.
        """
        if self._header is not None or self._partial or len(data) < HEADER_SIZE:
            return False
        kind, flags, reserved, stream, length, offset = HEADER.unpack_from(data)
        if kind != _DATA or flags or reserved or not stream or not 0 < length <= MAX_DATA:
            return False
        self.payload_left, self.stream, self.offset, self._data = length, stream, offset, True
        return True

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


class LaneProtocol:
    """The protocol state of one lane (SPEC.md section 8): handshake frames, keepalive, end.

    ``decoder`` has the stream and offset of payload; ``attached`` is whether the lane belongs to a session.
    """

    def __init__(self, state: LaneState, now: float) -> None:
        self.state = state
        self.decoder = Decoder()
        self.keepalive = Keepalive(now)
        self.attached = False
        self._accepted = state is LaneState.AWAIT_FIRST
        self._asked: Ping | None = None  # unanswered; only the newest, so that a flood takes no memory

    def feed(self, data: Memory, now: float) -> tuple[int, Frame | None]:
        """Consume bytes up to the end of the next header or control frame, as ``Decoder.feed`` does.

        Returns how many, and the frame: never DATA or PING, and PONG after it was processed. Raises
        ProtocolError, also for a frame that the lane's state does not allow; the lane is unusable afterwards.
        """
        if self.state is LaneState.ATTACHED and self.decoder.begin(data):  # which changes no state
            return HEADER_SIZE, None
        taken, frame = self.decoder.feed(data)
        if frame is None:
            return taken, None
        self.state = step(LANE, self.state, frame.type, Code.HANDSHAKE)
        if frame.type is FrameType.DATA:
            return taken, None
        if isinstance(frame, Ping):
            self._asked = frame
            return taken, None
        if isinstance(frame, Pong):
            self.keepalive.pong(frame, now)
        return taken, frame

    def attach(self) -> None:
        """Make it a lane of a session: its first frame is answered, or the answer was received."""
        self.attached = True
        if self.state is LaneState.DECIDING:
            self.state = step(LANE, self.state, Call.ANSWER, Code.HANDSHAKE)
        else:
            self.state = LaneState.ATTACHED

    @property
    def owes_pong(self) -> bool:
        """Whether a PING is unanswered."""
        return self._asked is not None

    def pong(self) -> bytes:
        """Return the answer to the newest unanswered PING, if any: one PONG answers all before it."""
        ping, self._asked = self._asked, None
        return b"" if ping is None else encode(Pong(ping.token))

    def ask(self, now: float) -> tuple[int, bytes]:
        """Return a PING to send now, and its token: a PONG with that token or a higher one answers it."""
        ping = self.keepalive.ask(now)
        return ping.token, encode(ping)

    def poll(self, now: float, *, idle: bool = False) -> bytes:
        """Return the PING that is due, b"" if none is.

        ``idle``: no stream is open. Then only the host that dialed sends PINGs, as long as they arrive.
        """
        ping = self.keepalive.poll(now, relying=idle and self._accepted)
        return b"" if ping is None else encode(ping)

    def close(self, code: Code, reason: str, now: float) -> bytes:
        """Return the GOAWAY that ends the lane, and with it the session that it is attached to."""
        # After a PING, if none was sent yet: GOAWAY before any frame of a session ends only the lane.
        first = self.poll(now) if self.attached else b""
        self.state = LaneState.CLOSED
        return first + encode(GoAway(code, reason))

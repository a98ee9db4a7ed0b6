"""One lane's part of the protocol, without I/O: its frames, its state, PING and PONG, GOAWAY.

The owner of the connection feeds it received bytes, moves payload to where it belongs, and sends the bytes
that the other methods return. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, FrameType
from tunnel.wire.decoder import Decoder
from tunnel.wire.frames import Frame, GoAway, Ping, Pong
from tunnel.wire.keepalive import Keepalive
from tunnel.wire.payload import Memory
from tunnel.wire.states import LANE, Call, LaneState, step


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

"""One lane's part of the protocol, without I/O: its frames, its state, PING and PONG, GOAWAY.

Who has the connection feeds it the bytes that came, moves payload wherever it belongs, and sends the bytes
that the other methods return. Times are seconds of any clock that only goes forward.
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
    """See the module. ``decoder`` says where payload belongs; ``attached``: it is a session's."""

    def __init__(self, state: LaneState, now: float) -> None:
        self.state = state
        self.decoder = Decoder()
        self.keepalive = Keepalive(now)
        self.attached = False
        self._asked: Ping | None = None  # not answered yet; only the newest, so that a flood cannot pile up

    def feed(self, data: Memory, now: float) -> tuple[int, Frame | None]:
        """Take bytes up to the end of the next header or control frame, as ``Decoder.feed`` does.

        Returns how many, and the frame: never DATA or PING, and PONG once it is noted. Raises ProtocolError,
        also for a frame that the lane's state does not allow; the lane is then of no further use.
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
        """Make it a lane of a session, by the answer to its first frame or by that frame's answer."""
        self.attached = True
        if self.state is LaneState.DECIDING:
            self.state = step(LANE, self.state, Call.ANSWER, Code.HANDSHAKE)
        else:
            self.state = LaneState.ATTACHED

    @property
    def owes_pong(self) -> bool:
        """Whether a PING has no answer yet."""
        return self._asked is not None

    def pong(self) -> bytes:
        """Answer the newest PING, if it has no answer yet: one will do for all before it."""
        ping, self._asked = self._asked, None
        return b"" if ping is None else encode(Pong(ping.token))

    def ask(self, now: float) -> tuple[int, bytes]:
        """Make a PING that is to be sent now: its token, at or above which an answer is one to it."""
        ping = self.keepalive.ask(now)
        return ping.token, encode(ping)

    def poll(self, now: float) -> bytes:
        """Make the PING that is due, if one is."""
        ping = self.keepalive.poll(now)
        return b"" if ping is None else encode(ping)

    def close(self, code: Code, reason: str, now: float) -> bytes:
        """Make the GOAWAY that ends the lane, and with it the session that it is attached to."""
        # Behind a PING, if there was none yet: before any frame of a session GOAWAY ends the lane alone.
        first = self.poll(now) if self.attached else b""
        self.state = LaneState.CLOSED
        return first + encode(GoAway(code, reason))

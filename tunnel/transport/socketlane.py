"""What lanes share whoever encrypts: one socket that one loop watches. The contract stands in ``lane``.

Here is how frames are taken apart, the state of the lane, keepalive, and the end.
"""

from __future__ import annotations

import asyncio
import socket
import time
from abc import abstractmethod
from collections.abc import Callable

from tunnel.errors import (
    LaneLost,
    LaneStalled,
    MisuseError,
    ProtocolError,
    RefusedError,
    TunnelError,
    WireError,
)
from tunnel.transport.lane import KEY_LIMIT, Lane, LaneHandler, Sinks
from tunnel.transport.sockets import caller_of, discard_unsent, name_of, stuck_for
from tunnel.transport.turns import Turn
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, FrameType
from tunnel.wire.decoder import Decoder
from tunnel.wire.frames import Frame, GoAway, Ping, Pong
from tunnel.wire.keepalive import INTERVAL, Keepalive
from tunnel.wire.states import LANE, Call, LaneState, step

LINGER = 2.0
"""Seconds that a closing lane waits for the peer to read our GOAWAY."""

_NEVER = 1 << 64
"""More records than any key protects."""


class SocketLane(Lane):
    """See the module. It belongs to the loop that runs when it is made, or to ``loop``."""

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        state: LaneState,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.peer = peer
        self.state = state
        self.epoch = 0
        self.replaces = 0
        self.local = name_of(sock.getsockname())
        self.remote = caller_of(sock)
        self.since = time.monotonic()
        self.gone = asyncio.Event()
        self._bytes_sent = 0
        self._bytes_received = 0
        self._mark = KEY_LIMIT  # records of one direction, at which to call ``_used``
        self._loop = loop or asyncio.get_running_loop()
        self._sock = sock
        self._decoder = Decoder()
        self._turn = Turn()
        self._leftover = memoryview(b"")  # decrypted bytes that a turn was too short for
        self._keepalive = Keepalive(time.monotonic())
        self._timer: asyncio.TimerHandle | None = None
        self._handler: LaneHandler | None = None
        self._sinks: Sinks | None = None
        self._answered: Callable[[], None] | None = None  # whom to tell when a sign of life comes
        self._asking = 0  # the token of the PING that asks for it
        self._asked: Ping | None = None  # not answered yet; only the newest, so that a flood cannot pile up

    # What each kind adds.

    @abstractmethod
    def _start_reading(self) -> None: ...

    @abstractmethod
    def _begin_linger(self) -> None:
        """Send what is queued, then TLS close_notify, and read on until the peer is gone."""

    @abstractmethod
    def _release(self) -> None:
        """Give the socket up, and set ``gone``."""

    # What they share.

    def start(self, handler: LaneHandler) -> None:
        """Begin to read."""
        self._handler = handler
        self._start_reading()

    def hand_over(self, handler: LaneHandler) -> None:
        """Let another handler own the lane from now on."""
        self._handler = handler

    def attached(self, epoch: int, sinks: Sinks | None = None) -> None:
        """The lane belongs to a session now: watch over it."""
        self.epoch, self._sinks = epoch, sinks
        if self.state is LaneState.DECIDING:
            self.state = step(LANE, self.state, Call.ANSWER, Code.HANDSHAKE)
        else:
            self.state = LaneState.ATTACHED
        self._timer = self._loop.call_later(0, self._tick)

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames that the socket took."""
        return self._bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes of frames that came."""
        return self._bytes_received

    @property
    def round_trip(self) -> float:
        """Seconds that the last PING took; 0.0 before the first."""
        return self._keepalive.round_trip

    @property
    def distance(self) -> float:
        """Seconds of the quickest PING lately: the way itself, without what queues on it. 0.0 before any."""
        return self._keepalive.quickest

    @property
    def ended(self) -> bool:
        """Whether nobody owns the lane any more."""
        return self._handler is None

    def ping(self, answered: Callable[[], None]) -> None:
        """Ask for a sign of life. The answer to a later PING is one too: the peer may answer that alone."""
        ping = self._keepalive.ask(time.monotonic())
        self._asking, self._answered = ping.token, answered
        self.send_control(encode(ping))
        self.flush()

    def warn_at(self, records: int) -> None:
        """Call ``on_worn`` once a key has protected so many records."""
        self._mark = min(records, KEY_LIMIT)

    def _used(self, records: int) -> None:
        """Tell the owner, soon, that a key has protected ``records``, which are ``_mark`` or more."""
        self._mark = KEY_LIMIT if records < KEY_LIMIT else _NEVER
        self._loop.call_soon(self._worn, records)

    def _worn(self, records: int) -> None:
        if self._handler is None:
            return
        if records >= KEY_LIMIT:
            self._lost(f"a TLS key has protected {records} records, and the lane was not replaced in time")
        else:
            self._tell(self._handler.on_worn)

    def close(self, code: Code, reason: str) -> None:
        """Say GOAWAY and end the lane."""
        if self.ended:
            return
        if self.epoch:
            self._ping(time.monotonic())  # due if there was none yet: GOAWAY before any ends the lane alone
        self.send_control(encode(GoAway(code, reason)))
        self._stop()
        self._begin_linger()

    def abort(self) -> None:
        """End the lane at once."""
        if not self.ended:
            self._stop()
        if self._bytes_sent:  # else no frame of ours is under way, and TCP ends in order
            discard_unsent(self._sock)
        self._release()

    def _stop(self) -> None:
        self.state = LaneState.CLOSED
        self._handler = None
        self._leftover = memoryview(b"")
        self._answered = None
        if self._timer is not None:
            self._timer.cancel()

    def _lost(self, reason: str) -> None:
        """The connection is of no more use."""
        said = f"connection with {self.peer} ({self.remote}) lost: {reason}"
        silence, stuck = self._keepalive.silence(time.monotonic()), stuck_for(self._sock)
        if stuck or silence > 2 * INTERVAL:  # at least one PING of the peer did not come
            self._end(LaneStalled(said, max(stuck, silence), proven=stuck > silence))
        else:
            self._end(LaneLost(said))
        self._release()

    def _end(self, reason: TunnelError) -> None:
        handler, self._handler = self._handler, None
        self._stop()
        if handler is not None:
            self._loop.call_soon(handler.on_end, self, reason)

    def _violated(self, error: WireError) -> None:
        """The peer broke a rule, or we have a bug: tell the peer, tell our owner, end."""
        code = error.code if isinstance(error, ProtocolError) else Code.INTERNAL
        self.send_control(encode(GoAway(code, str(error))))
        self._end(error)
        self._begin_linger()

    def fail(self, error: Exception) -> None:
        """End the lane for what its handler raised. A bug of ours must fail the migration, not hang it."""
        if self.ended:
            return
        if not isinstance(error, WireError):
            error = MisuseError(Code.INTERNAL, f"a fault of the daemon: {error!r}")
        self._violated(error)

    def _tell(self, method: Callable[[Lane], None]) -> None:
        """Call the handler; it may not raise, and if it does the lane ends."""
        try:
            method(self)
        except Exception as error:
            self.fail(error)
            raise

    # Bytes from the peer.

    def _received(self, plain: memoryview) -> None:
        """Take decrypted bytes apart; what this turn is too short for is kept in ``_leftover``."""
        taken = self._take_apart(plain)
        if taken < len(plain) and not self.ended:
            self._leftover = memoryview(bytes(plain[taken:]))

    def _take_leftover(self) -> None:
        """Go on with what is kept."""
        taken = self._take_apart(self._leftover)
        self._leftover = self._leftover[taken:]

    def _take_apart(self, plain: memoryview) -> int:
        """Hand over what ``plain`` holds, as much as the turn allows; how many bytes that was."""
        handler = self._handler
        if handler is None:
            return 0
        position, size, spent = 0, len(plain), self._turn.spent
        try:
            while position < size and (owner := self._handler) is not None:
                handler = owner  # a frame may have handed the lane over
                if left := self._decoder.payload_left:
                    stop = min(position + left, size)
                    self._take_payload(handler, plain[position:stop])
                    position = stop
                elif spent():
                    break
                else:
                    position += self._take_frame(plain[position:])
            self._answer()
        except WireError as error:
            self.fail(error)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self._turn.took(position)
            self._tell(handler.on_batch_end)
        return position

    def _take_payload(self, handler: LaneHandler, payload: memoryview) -> None:
        decoder = self._decoder
        handler.on_payload(self, decoder.stream, decoder.offset, payload)
        decoder.moved(len(payload))

    def _take_frame(self, plain: memoryview) -> int:
        taken, frame = self._decoder.feed(plain)
        if frame is not None:
            self.state = step(LANE, self.state, frame.type, Code.HANDSHAKE)
            if frame.type is not FrameType.DATA:  # its payload follows
                self._obey(frame)
        return taken

    def _obey(self, frame: Frame) -> None:
        match frame:
            case Ping():
                self._asked = frame  # answered once all that came with it is taken
            case Pong():
                self._on_pong(frame)
            case GoAway():
                self._end(self._meaning(frame))
                self._begin_linger()
            case _:
                assert self._handler is not None  # noqa: S101  checked by _received
                self._handler.on_frame(self, frame, self._decoder.sequence)

    def _on_pong(self, frame: Pong) -> None:
        self._keepalive.pong(frame, time.monotonic())
        if (answered := self._answered) is not None and self._keepalive.answered >= self._asking:
            self._answered = None
            answered()

    def _meaning(self, frame: GoAway) -> TunnelError:
        """What GOAWAY ends, by the state of the lane since: SPEC.md section 8."""
        if self.state is LaneState.LOST:
            return LaneLost(f"{self.peer} ({self.remote}) did not wait for the answer: {frame.reason}")
        return RefusedError(f"{self.peer} ended the link: {frame.reason}", frame.code)

    def _answer(self) -> None:
        """Answer the newest PING, once there is room: also to be called when there is room again."""
        if self._asked is not None and self.room and not self.ended:
            ping, self._asked = self._asked, None
            self.send_control(encode(Pong(ping.token)))
            self.flush()

    # Time.

    def _tick(self) -> None:
        if self._handler is None:
            return
        now = time.monotonic()  # uvloop's own clock stands still for a millisecond at a time
        if self._keepalive.silent(now):
            self._lost("the peer has been silent for too long")
            return
        if self._ping(now):
            self.flush()
            if self.ended:
                return
            self._tell(self._handler.on_tick)
        self._timer = self._loop.call_later(max(0.0, self._keepalive.wake_at - now), self._tick)

    def _ping(self, now: float) -> bool:
        """Queue PING if one is due; whether it was."""
        ping = self._keepalive.poll(now)
        if ping is not None:
            self.send_control(encode(ping))
        return ping is not None

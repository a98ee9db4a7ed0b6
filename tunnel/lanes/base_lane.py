"""What lanes share whoever encrypts: a non-blocking socket that one loop watches. The contract: ``lane``.

Here are the queue to send from, turns of reading, who is told of what came, keepalive, the end. A kind adds
how it moves bytes: ``_push`` empties the queue into the socket, ``_read`` takes what came.
"""

from __future__ import annotations

import asyncio
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from tunnel.errors import (
    LaneLost,
    LaneStalled,
    MisuseError,
    ProtocolError,
    RefusedError,
    TunnelError,
    WireError,
)
from tunnel.lanes.batch_sizer import BatchSizer
from tunnel.lanes.lane import KEY_LIMIT, Lane, LaneHandler, Sinks
from tunnel.lanes.read_turns import Turn
from tunnel.net.sockets import caller_of, discard_unsent, name_of, stuck_for
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, GoAway, Pong
from tunnel.wire.keepalive import INTERVAL
from tunnel.wire.lane_protocol import LaneProtocol
from tunnel.wire.payload import Memory, Payload, copied, in_memory
from tunnel.wire.states import LaneState

LINGER = 2.0
"""Seconds that a closing lane waits for the peer to read our GOAWAY."""

_NEVER = 1 << 64
"""More records than any key protects."""

Item = TypeVar("Item")


class BaseLane(Lane, Generic[Item]):
    """See the module. ``Item`` is what the queue holds. It belongs to the loop that runs when it is made."""

    def __init__(self, sock: socket.socket, peer: str, state: LaneState) -> None:
        self.peer = peer
        self.epoch = 0
        self.replaces = 0
        self.local = name_of(sock.getsockname())
        self.remote = caller_of(sock)
        self.since = time.monotonic()
        self.gone = asyncio.Event()
        self._protocol = LaneProtocol(state, time.monotonic())
        self._decoder = self._protocol.decoder
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._handler: LaneHandler | None = None
        self._sinks: Sinks | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._answered: Callable[[], None] | None = None  # whom to tell when a sign of life comes
        self._asking = 0  # the token of the PING that asks for it
        self._mark = KEY_LIMIT  # records of one direction, at which to call ``_used``
        # Sending.
        self._bytes_sent = 0
        self._pace = BatchSizer()
        self._unsent: deque[Item] = deque()
        self._full = False  # the socket took no more: the loop watches for room
        self._unsendable = ""  # why nothing can be sent any more
        # Reading.
        self._bytes_received = 0
        self._turn = Turn()
        self._leftover = memoryview(b"")  # decrypted bytes that a turn was too short for
        self._next_read: asyncio.Handle | None = None
        self._unwatched = False  # the loop does not say that there is something to read: others come first

    # What each kind adds, beside ``send`` and ``send_control``, which fill the queue.

    @abstractmethod
    def _push(self) -> bool:
        """Offer what is queued to the socket; whether it took all. Sets ``_full``."""

    @abstractmethod
    def _read(self) -> bool:
        """Take what came, or the end, as much as a turn allows; whether there may be more at hand."""

    @abstractmethod
    def _say_goodbye(self) -> None:
        """Everything is sent: close_notify, and no more from our side."""

    @abstractmethod
    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed."""

    # What it tells of itself.

    @property
    def state(self) -> LaneState:
        """Where it stands in the protocol."""
        return self._protocol.state

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
        return self._protocol.keepalive.round_trip

    @property
    def distance(self) -> float:
        """Seconds of the quickest PING lately: the way itself, without what queues on it. 0.0 before any."""
        return self._protocol.keepalive.quickest

    @property
    def batch(self) -> int:
        """How many payload bytes one ``send`` should carry: about a millisecond of link time."""
        return self._pace.batch

    @property
    def ended(self) -> bool:
        """Whether nobody owns the lane any more."""
        return self._handler is None

    @property
    def room(self) -> bool:
        """Whether the socket took everything so far."""
        return not (self._full or self._unsendable or self._handler is None)

    # Its owner.

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
        self._protocol.attach()
        self._timer = self._loop.call_later(0, self._tick)

    def leave(self) -> None:
        """Let the loop not watch the lane any more."""
        if self._next_read is not None:
            self._next_read.cancel()
            self._next_read = None
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)

    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Go on in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._turn = Turn()
        self.gone = asyncio.Event()
        self._unwatched = False
        self._start_reading()
        if self._full:
            self._loop.add_writer(self._sock, self._writable)
        self._read_on()  # the loop does not tell of what was read already
        try:
            handler.on_frame(self, frame, self._decoder.sequence)
        except Exception as error:
            self.fail(error)
            if not isinstance(error, WireError):
                raise

    def _tell(self, method: Callable[[Lane], None]) -> None:
        """Call the handler; it may not raise, and if it does the lane ends."""
        try:
            method(self)
        except Exception as error:
            self.fail(error)
            raise

    # Sending.

    def flush(self) -> None:
        """Encrypt and send what is queued, unless the socket is full."""
        if self._unsent and not self._full:
            self._turn.count()
            if not self._push():
                self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        self._turn.count()
        if not self._push():
            return
        self._loop.remove_writer(self._sock)
        self._answer()
        if self._handler is not None:
            self._tell(self._handler.on_writable)
        elif self._lingering is not None:
            self._say_goodbye()

    def _wait_for_room(self) -> None:
        """The socket takes no more for now."""
        self._full = True
        self._loop.add_writer(self._sock, self._writable)

    def _break_off(self, reason: str) -> None:
        """Nothing can be sent any more: read what still came, until ``_read`` says why."""
        self._unsent.clear()
        self._full = False
        self._unsendable = reason
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._read_on()

    # Reading.

    def _start_reading(self) -> None:
        self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        """Take a turn of reading: first what the last one left."""
        if self._unwatched:
            self._unwatched = False
            self._start_reading()
        if self._lingering is not None:
            self._discard()
            return
        self._turn.begin()
        if self._leftover:
            taken = self._take_apart(self._leftover)
            self._leftover = self._leftover[taken:]
            more = True
        else:
            more = self._read()
        if more and not self.ended:
            self._read_on(self._turn.pause())

    def _read_on(self, after: float = 0.0) -> None:
        """Read again ``after`` seconds, whether or not the loop finds the socket readable."""
        if self._next_read is not None:
            self._next_read.cancel()
        if after:
            self._unwatched = True
            self._loop.remove_reader(self._sock)
            self._next_read = self._loop.call_later(after, self._readable)
        else:
            self._next_read = self._loop.call_soon(self._readable)

    def _heard(self, count: int) -> None:
        """``count`` bytes of frames came."""
        self._bytes_received += count
        self._protocol.keepalive.heard(time.monotonic())

    def _received(self, plain: Payload) -> None:
        """Take decrypted bytes apart; what this turn is too short for is kept in ``_leftover``."""
        taken = self._take_apart(plain)
        if taken < len(plain) and not self.ended:
            self._leftover = memoryview(copied(plain[taken:]))

    def _take_apart(self, plain: Payload) -> int:
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
                    position += self._take_frame(in_memory(plain[position:]))
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

    def _take_payload(self, handler: LaneHandler, payload: Payload) -> None:
        decoder = self._decoder
        handler.on_payload(self, decoder.stream, decoder.offset, payload)
        decoder.moved(len(payload))

    def _take_frame(self, plain: Memory) -> int:
        taken, frame = self._protocol.feed(plain, time.monotonic())
        if frame is not None:
            self._obey(frame)
        return taken

    def _obey(self, frame: Frame) -> None:
        match frame:
            case Pong():
                self._on_pong()
            case GoAway():
                self._end(self._meaning(frame))
                self._begin_linger()
            case _:
                assert self._handler is not None  # noqa: S101  checked by _take_apart
                self._handler.on_frame(self, frame, self._decoder.sequence)

    def _meaning(self, frame: GoAway) -> TunnelError:
        """What GOAWAY ends, by the state of the lane since: SPEC.md section 8."""
        if self.state is LaneState.LOST:
            return LaneLost(f"{self.peer} ({self.remote}) did not wait for the answer: {frame.reason}")
        return RefusedError(f"{self.peer} ended the link: {frame.reason}", frame.code)

    # Keepalive.

    def ping(self, answered: Callable[[], None]) -> None:
        """Ask for a sign of life. The answer to a later PING is one too: the peer may answer that alone."""
        self._asking, ping = self._protocol.ask(time.monotonic())
        self._answered = answered
        self.send_control(ping)
        self.flush()

    def _on_pong(self) -> None:
        answered = self._answered
        if answered is not None and self._protocol.keepalive.answered >= self._asking:
            self._answered = None
            answered()

    def _answer(self) -> None:
        """Answer the newest PING, once there is room: also to be called when there is room again."""
        if self._protocol.owes_pong and self.room:
            self.send_control(self._protocol.pong())
            self.flush()

    def _tick(self) -> None:
        if self._handler is None:
            return
        now = time.monotonic()  # uvloop's own clock stands still for a millisecond at a time
        if self._protocol.keepalive.silent(now):
            self._lost("the peer has been silent for too long")
            return
        if ping := self._protocol.poll(now):
            self.send_control(ping)
            self.flush()
            if self.ended:
                return
            self._tell(self._handler.on_tick)
        self._timer = self._loop.call_later(max(0.0, self._protocol.keepalive.wake_at - now), self._tick)

    # Its keys.

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

    # The end.

    def close(self, code: Code, reason: str) -> None:
        """Say GOAWAY and end the lane."""
        if self.ended:
            return
        self.send_control(self._protocol.close(code, reason, time.monotonic()))
        self._stop()
        self._begin_linger()

    def abort(self) -> None:
        """End the lane at once."""
        if not self.ended:
            self._stop()
        if self._bytes_sent:  # else no frame of ours is under way, and TCP ends in order
            discard_unsent(self._sock)
        self._release()

    def fail(self, error: Exception) -> None:
        """End the lane for what its handler raised. A bug of ours must fail the migration, not hang it."""
        if self.ended:
            return
        if not isinstance(error, WireError):
            error = MisuseError(Code.INTERNAL, f"a fault of the daemon: {error!r}")
        code = error.code if isinstance(error, ProtocolError) else Code.INTERNAL
        self.send_control(encode(GoAway(code, str(error))))
        self._end(error)
        self._begin_linger()

    def _lost(self, reason: str) -> None:
        """The connection is of no more use."""
        said = f"connection with {self.peer} ({self.remote}) lost: {reason}"
        silence, stuck = self._protocol.keepalive.silence(time.monotonic()), stuck_for(self._sock)
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

    def _stop(self) -> None:
        self._protocol.state = LaneState.CLOSED
        self._handler = None
        self._leftover = memoryview(b"")
        self._answered = None
        if self._timer is not None:
            self._timer.cancel()

    def _begin_linger(self) -> None:
        """Send what is queued, then TLS close_notify, and read on until the peer is gone."""
        if self._sock.fileno() < 0 or self._lingering is not None:
            return
        self._lingering = self._loop.call_later(LINGER, self._release)
        self.flush()
        if not self._full:
            self._say_goodbye()

    def _shut(self) -> None:
        """Nothing more comes from our side."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._release()

    def _release(self) -> None:
        """Give the socket up, and set ``gone``."""
        if self._lingering is not None:
            self._lingering.cancel()
        if self._next_read is not None:
            self._next_read.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self.gone.set()

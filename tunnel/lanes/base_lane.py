"""The common part of userspace and kernel lanes, on a non-blocking socket. The contract is in ``lane``.

It has the send queue, the read quantum, dispatch to the handler, keepalive and close. A kind adds how bytes
move: ``_push`` sends from the queue, ``_read`` receives.
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
from tunnel.lanes.lane import Lane, LaneHandler, PayloadHandler
from tunnel.lanes.quanta import BatchSizer, Turn
from tunnel.net.sockets import caller_of, discard_unsent, name_of, stuck_for
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, GoAway, Pong
from tunnel.wire.keepalive import INTERVAL, aligned
from tunnel.wire.lane_protocol import LaneProtocol
from tunnel.wire.payload import Memory, Payload, copied, in_memory
from tunnel.wire.rotation import KEY_LIMIT
from tunnel.wire.states import LaneState

LINGER = 2.0
"""Seconds that a closing lane waits for the peer to close after our GOAWAY."""

_NEVER = 1 << 64
"""More records than any key protects."""

Item = TypeVar("Item")


class BaseLane(Lane, Generic[Item]):
    """A lane: the wire protocol over one TLS connection, without the encryption. ``Item``: a queue entry.

    It belongs to the event loop that runs when it is created.
    """

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
        self._payload: PayloadHandler | None = None  # while attached
        self._timer: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._answered: Callable[[], None] | None = None  # called when the peer replies
        self._asking = 0  # the token of the PING that it replies to
        self._mark = KEY_LIMIT  # records of one direction at which ``_used`` is called
        # Sending.
        self._bytes_sent = 0
        self._pace = BatchSizer()
        self._unsent: deque[Item] = deque()
        self._full = False  # the socket is full: the loop watches for writability
        self._unsendable = ""  # why sending has failed
        # Reading.
        self._bytes_received = 0
        self._turn = Turn()
        self._leftover = memoryview(b"")  # decrypted bytes beyond the read quantum
        self._next_read: asyncio.Handle | None = None
        self._unwatched = False  # the loop does not watch for input: other lanes come first

    # Implemented by each kind, besides ``send`` and ``send_control``, which fill the queue.

    @abstractmethod
    def _push(self) -> bool:
        """Send the queue; return whether all was sent. Sets ``_full``."""

    @abstractmethod
    def _read(self) -> bool:
        """Receive data or the end, up to the quantum; return whether there may be more without waiting."""

    @abstractmethod
    def _say_goodbye(self) -> None:
        """Send close_notify, after everything else, and shut down our direction."""

    @abstractmethod
    def _discard(self) -> None:
        """Read and discard input until the peer has closed."""

    # State and statistics.

    @property
    def state(self) -> LaneState:
        """The protocol state."""
        return self._protocol.state

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames that were sent."""
        return self._bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes of frames that were received."""
        return self._bytes_received

    @property
    def round_trip(self) -> float:
        """The last rtt of a PING, in seconds; 0.0 before the first."""
        return self._protocol.keepalive.round_trip

    @property
    def distance(self) -> float:
        """The minimum of recent rtts, in seconds: the path without queueing. 0.0 before the first PING."""
        return self._protocol.keepalive.quickest

    @property
    def batch(self) -> int:
        """Payload bytes that one ``send`` should carry: about a millisecond of link time."""
        return self._pace.batch

    @property
    def ended(self) -> bool:
        """Whether the lane has ended."""
        return self._handler is None

    @property
    def room(self) -> bool:
        """Whether the socket is not full and the lane is up."""
        return not (self._full or self._unsendable or self._handler is None)

    # The owner.

    def start(self, handler: LaneHandler) -> None:
        """Start reading."""
        self._handler = handler
        self._start_reading()

    def hand_over(self, handler: LaneHandler) -> None:
        """Pass the lane to another handler."""
        self._handler = handler

    def attached(self, epoch: int, payload: PayloadHandler) -> None:
        """Attach the lane to a session: start keepalive."""
        self.epoch, self._payload = epoch, payload
        self._protocol.attach()
        self._timer = self._loop.call_later(0, self._tick)

    def leave(self) -> None:
        """Remove the lane from the loop."""
        if self._next_read is not None:
            self._next_read.cancel()
            self._next_read = None
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)

    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Add the lane to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._turn = Turn()
        self.gone = asyncio.Event()
        self._unwatched = False
        self._start_reading()
        if self._full:
            self._loop.add_writer(self._sock, self._writable)
        self._read_on()  # bytes that were read already do not make the socket readable
        try:
            handler.on_frame(self, frame, self._decoder.sequence)
        except Exception as error:
            self.fail(error)
            if not isinstance(error, WireError):
                raise

    def _tell(self, method: Callable[..., None], *arguments: Lane) -> None:
        """Call a method of a handler, which must not raise; if it does, the lane fails."""
        try:
            method(*arguments)
        except Exception as error:
            self.fail(error)
            raise

    # Sending.

    def flush(self) -> None:
        """Encrypt and send the queue, unless the socket is full."""
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
            self._tell(self._handler.on_writable, self)
        elif self._lingering is not None:
            self._say_goodbye()

    def _wait_for_room(self) -> None:
        """Wait until the socket is writable."""
        self._full = True
        self._loop.add_writer(self._sock, self._writable)

    def _break_off(self, reason: str) -> None:
        """Stop sending, and read what was received before, until ``_read`` reports the end."""
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
        """Read up to the quantum, first what the last call left."""
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
        """Count ``count`` received bytes of frames."""
        self._bytes_received += count
        self._protocol.keepalive.heard_at = time.monotonic()

    def _received(self, plain: Payload) -> None:
        """Parse decrypted bytes; keep those beyond the quantum in ``_leftover``."""
        taken = self._take_apart(plain)
        if taken < len(plain) and not self.ended:
            self._leftover = memoryview(copied(plain[taken:]))

    def _take_apart(self, plain: Payload) -> int:
        """Parse ``plain`` and pass it to the handlers, up to the quantum; return the bytes consumed."""
        position, size, spent, decoder = 0, len(plain), self._turn.spent, self._decoder
        if self._handler is None:
            return 0
        try:
            while position < size and self._handler is not None:
                if left := decoder.payload_left:
                    count = min(left, size - position)
                    assert self._payload is not None  # noqa: S101  DATA is allowed on an attached lane only
                    part = plain[position : position + count]
                    self._payload.deliver(decoder.stream, decoder.offset, part)
                    decoder.moved(count)
                    position += count
                elif spent():
                    break
                else:
                    position += self._take_frame(in_memory(plain[position:]))
            if self._protocol.owes_pong:
                self._answer()
        except WireError as error:
            self.fail(error)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self._turn.took(position)
            if self._payload is not None:
                self._tell(self._payload.flush)
        return position

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
        """Return the error that GOAWAY means in the current state: SPEC.md section 8."""
        if self.state is LaneState.LOST:
            return LaneLost(f"{self.peer} ({self.remote}) closed before our reply: {frame.reason}")
        return RefusedError(f"{self.peer} closed the link: {frame.reason}", frame.code)

    # Keepalive.

    def ping(self, answered: Callable[[], None]) -> None:
        """Send a PING. The reply to a later one counts too: the peer may reply only to the newest."""
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
        """Reply to the newest PING if there is room; to be called again when there is."""
        if self._protocol.owes_pong and self.room:
            self.send_control(self._protocol.pong())
            self.flush()

    def _tick(self) -> None:
        if self._handler is None:
            return
        now = time.monotonic()  # the clock of uvloop has a resolution of a millisecond
        if self._protocol.keepalive.silent(now):
            self._lost("keepalive timeout: nothing received from the peer")
            return
        if ping := self._protocol.poll(now, idle=self._payload is not None and not self._payload.fan):
            self.send_control(ping)
            self.flush()
            if self.ended:
                return
        self._tell(self._handler.on_tick, self)
        if self.ended:
            return
        clock = time.time()  # noqa: TID251  a clock that all hosts share
        pause = aligned(self._protocol.keepalive.wake_at - now, clock)
        self._timer = self._loop.call_later(pause, self._tick)

    # Key limits.

    def warn_at(self, records: int) -> None:
        """Call ``on_worn`` once a key has protected that many records."""
        self._mark = min(records, KEY_LIMIT)

    def _used(self, records: int) -> None:
        """Schedule ``on_worn``: a key has protected ``records``, which are ``_mark`` or more."""
        self._mark = KEY_LIMIT if records < KEY_LIMIT else _NEVER
        self._loop.call_soon(self._worn, records)

    def _worn(self, records: int) -> None:
        if self._handler is None:
            return
        if records >= KEY_LIMIT:
            self._lost(f"TLS key limit reached: {records} records, and the lane was not replaced in time")
        else:
            self._tell(self._handler.on_worn, self)

    # Closing.

    def close(self, code: Code, reason: str) -> None:
        """Send GOAWAY and close the lane."""
        if self.ended:
            return
        self.send_control(self._protocol.close(code, reason, time.monotonic()))
        self._stop()
        self._begin_linger()

    def abort(self) -> None:
        """Reset the connection."""
        if not self.ended:
            self._stop()
        if self._bytes_sent:  # otherwise no frame is in flight, and TCP may close in order
            discard_unsent(self._sock)
        self._release()

    def fail(self, error: Exception) -> None:
        """Close the lane because its handler raised ``error``. A bug must fail the migration, not hang it."""
        if self.ended:
            return
        if not isinstance(error, WireError):
            error = MisuseError(Code.INTERNAL, f"internal error: {error!r}")
        code = error.code if isinstance(error, ProtocolError) else Code.INTERNAL
        self.send_control(encode(GoAway(code, str(error))))
        self._end(error)
        self._begin_linger()

    def _lost(self, reason: str) -> None:
        """End the lane: the connection is lost or unusable."""
        message = f"connection with {self.peer} ({self.remote}) lost: {reason}"
        silence, stuck = self._protocol.keepalive.silence(time.monotonic()), stuck_for(self._sock)
        if stuck or silence > 2 * INTERVAL:  # at least one PING of the peer is missing
            self._end(LaneStalled(message, max(stuck, silence), proven=stuck > silence))
        else:
            self._end(LaneLost(message))
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
        """Send the queue, then close_notify, and read until the peer has closed."""
        if self._sock.fileno() < 0 or self._lingering is not None:
            return
        self._lingering = self._loop.call_later(LINGER, self._release)
        self.flush()
        if not self._full:
            self._say_goodbye()

    def _shut(self) -> None:
        """Shut down our direction."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._release()

    def _release(self) -> None:
        """Close the socket and set ``gone``."""
        if self._lingering is not None:
            self._lingering.cancel()
        if self._next_read is not None:
            self._next_read.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self.gone.set()

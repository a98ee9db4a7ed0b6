"""What lanes share that keep a non-blocking socket in the loop: a queue to send from, and an orderly end.

A kind adds how it moves bytes: ``_push`` empties the queue into the socket, ``_read`` takes what came.
"""

from __future__ import annotations

import asyncio
import socket
from abc import abstractmethod
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

from tunnel.errors import WireError
from tunnel.transport.lane import LaneHandler
from tunnel.transport.pace import Pace
from tunnel.transport.socketlane import LINGER, SocketLane
from tunnel.transport.turns import Turn
from tunnel.wire.frames import Frame
from tunnel.wire.states import LaneState

Item = TypeVar("Item")


class WatchedLane(SocketLane, Generic[Item]):
    """See the module. ``Item`` is what the queue holds."""

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        state: LaneState,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(sock, peer, state, loop)
        self._pace = Pace()
        self._unsent: deque[Item] = deque()
        self._full = False  # the socket took no more: the loop watches for room
        self._unsendable = ""  # why nothing can be sent any more
        self._next_read: asyncio.Handle | None = None
        self._paused = False
        self._unwatched = False  # the loop does not say that there is something to read: others come first
        self._lingering: asyncio.TimerHandle | None = None

    # What each kind adds.

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

    # What they share.

    @property
    def batch(self) -> int:
        """How many payload bytes one ``send`` should carry: about a millisecond of link time."""
        return self._pace.batch

    @property
    def room(self) -> bool:
        """Whether the socket took everything so far."""
        return not (self._full or self._unsendable or self._handler is None)

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

    def pause_reading(self) -> None:
        """Leave what was handed over alone after ``on_batch_end`` too, and so hand over no more."""
        self._paused = True
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
        if self._next_read is not None:
            self._next_read.cancel()

    def resume_reading(self) -> None:
        """Go on, if paused."""
        if self._paused:
            self._paused = False
            if self._sock.fileno() >= 0:
                self._start_reading()
                self._read_on()

    def _start_reading(self) -> None:
        self._loop.add_reader(self._sock, self._readable)

    # From one loop to another.

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
            self._take_leftover()
            more = True
        else:
            more = self._read()
        if more and not self.ended:
            self._read_on(self._turn.pause())

    def _read_on(self, after: float = 0.0) -> None:
        """Read again ``after`` seconds, whether or not the loop finds the socket readable."""
        if self._next_read is not None:
            self._next_read.cancel()
        if self._paused:
            return
        if after:
            self._unwatched = True
            self._loop.remove_reader(self._sock)
            self._next_read = self._loop.call_later(after, self._readable)
        else:
            self._next_read = self._loop.call_soon(self._readable)

    # The end.

    def _begin_linger(self) -> None:
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
        if self._lingering is not None:
            self._lingering.cancel()
        if self._next_read is not None:
            self._next_read.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self.gone.set()

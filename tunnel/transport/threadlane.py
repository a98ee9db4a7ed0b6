"""A lane on a thread of its own: it encrypts and decrypts there, while streams stay with the owner's loop.

Any watched lane will do, made for the thread's loop. Frames to send go over in a queue; what arrived
comes back as a batch, whose memory the lane leaves alone until the owner is through with it. Every call from
one side to the other is a callback in the other's loop, and they keep their order. Shared beside that are
payload in pipes, behind the lock of its stream's keeper, and counters that are only read here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvloop

from tunnel.errors import LaneError, TunnelError, WireError
from tunnel.transport.lane import Lane, LaneHandler, Sinks
from tunnel.transport.turns import Turn
from tunnel.transport.watched import WatchedLane
from tunnel.wire.codes import KIB, Code
from tunnel.wire.frames import Frame
from tunnel.wire.stream import Outgoing

FRAME_COST = 4 * KIB
"""What a frame counts for beside its payload, in what the thread has before it: that may be single bytes."""

MakeLane = Callable[[asyncio.AbstractEventLoop], WatchedLane[Any]]
Event = Callable[[LaneHandler], None]
"""Something that the thread's lane has to tell whoever owns it."""


def _weight(outgoing: Outgoing) -> int:
    return len(outgoing.piece) + FRAME_COST


class ThreadLane(Lane):
    """See the module, and the contract in ``lane``. ``make`` gets the loop of the thread."""

    def __init__(self, make: MakeLane) -> None:
        self._loop = asyncio.get_running_loop()
        self._theirs: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        try:
            self._inner = inner = make(self._theirs)
        except BaseException:
            self._theirs.close()
            raise
        self.kind, self.peer = inner.kind, inner.peer
        self.local, self.remote, self.since = inner.local, inner.remote, inner.since
        self.epoch = 0
        self.replaces = 0
        self.gone = asyncio.Event()
        self._handler: LaneHandler | None = None
        self._outbox: deque[bytes | Outgoing] = deque()  # for the thread to take
        self._turn = Turn()
        self._counted = 0  # of the bytes that arrived: those of batches before this one
        self._ahead = 0  # what the thread has not passed on yet: see _weight
        self._worker = _Worker(self, inner, self._outbox)
        thread = threading.Thread(target=self._run, name=f"lane with {self.peer}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._theirs.close()
            raise LaneError(
                f"lane with {self.peer} ({self.remote}): {error}; "
                "raise TasksMax= of the daemon's unit, or let it have fewer lanes"
            ) from None

    # What is as the thread's lane has it; numbers are read as they are at the moment.

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._inner.cipher

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames that the socket took."""
        return self._inner.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes of frames that came."""
        return self._inner.bytes_received

    @property
    def records_sent(self) -> int:
        """TLS records that were protected with our key."""
        return self._inner.records_sent

    @property
    def records_received(self) -> int:
        """TLS records that were protected with the peer's key."""
        return self._inner.records_received

    @property
    def round_trip(self) -> float:
        """Seconds that the last PING took; 0.0 before the first."""
        return self._inner.round_trip

    @property
    def distance(self) -> float:
        """Seconds of the quickest PING lately."""
        return self._inner.distance

    @property
    def batch(self) -> int:
        """How many payload bytes one ``send`` should carry."""
        return self._inner.batch

    # The owner's side.

    @property
    def ended(self) -> bool:
        """Whether nobody owns the lane any more."""
        return self._handler is None

    def ping(self, answered: Callable[[], None]) -> None:
        """Ask for a sign of life."""

        def told() -> None:
            self.notify(self.tell, lambda _: answered())

        self.flush()
        self._post(self._inner.ping, told)

    @property
    def room(self) -> bool:
        """Whether the thread has less than one batch before it."""
        return self._ahead < self._inner.batch and self._handler is not None

    def start(self, handler: LaneHandler) -> None:
        """Begin to read."""
        self._handler = handler
        self._post(self._inner.start, self._worker)

    def hand_over(self, handler: LaneHandler) -> None:
        """Let another handler own the lane from now on."""
        self._handler = handler

    def attached(self, epoch: int, sinks: Sinks | None = None) -> None:
        """The lane belongs to a session now: watch over it."""
        self.epoch = epoch
        self.flush()  # our answer to the peer must be ahead of the first PING
        self._post(self._inner.attached, epoch)

    def warn_at(self, records: int) -> None:
        """Call ``on_worn`` once a key has protected so many records."""
        self._inner.warn_at(records)  # it sets a number, which any thread may

    def send_control(self, frames: bytes) -> None:
        """Queue whole control frames; they leave with the next ``send`` or ``flush``."""
        if self._handler is not None:
            self._outbox.append(frames)

    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued before it."""
        if self._handler is not None:
            self._ahead += _weight(outgoing)
            self._outbox.append(outgoing)
            self.flush()

    def flush(self) -> None:
        """Send what is queued."""
        if self._outbox and not self._worker.called:
            self._turn.count()
            self._worker.called = True
            self._post(self._worker.push)

    def close(self, code: Code, reason: str) -> None:
        """Say GOAWAY and end the lane."""
        self._handler = None
        self._post(self._worker.push)
        self._post(self._inner.close, code, reason)

    def abort(self) -> None:
        """End the lane at once."""
        self._handler = None
        self._post(self._inner.abort)

    def _post(self, call: Callable[..., object], *args: object) -> None:
        if not self._theirs.is_closed():
            self._theirs.call_soon_threadsafe(call, *args)

    # What the worker says, in the owner's loop.

    def take(self, batch: list[Event]) -> None:
        """Hand over what arrived at once, as a lane without a thread would."""
        handler = self._handler
        self._turn.begin()
        try:
            for event in batch:
                if self._handler is None:
                    break
                self._turn.spent()  # the thread has cut the batch off already: this only counts
                handler = self._handler  # a frame may have handed the lane over
                event(handler)
        except WireError as error:
            self._post(self._inner.fail, error)
        except Exception as error:
            self._post(self._inner.fail, error)
            raise
        finally:
            self._give_back(handler)

    def _give_back(self, handler: LaneHandler | None) -> None:
        """Nobody looks at the memory of the batch any more: the lane may use it again."""
        try:
            if handler is not None:
                handler.on_batch_end(self)
        finally:
            counted, self._counted = self._counted, self._inner.bytes_received
            self._turn.took(self._counted - counted)
            if after := self._turn.pause():
                self._loop.call_later(after, self._post, self._inner.resume_reading)
            else:
                self._post(self._inner.resume_reading)

    def passed_on(self, count: int) -> None:
        """What weighs ``count`` left; also when there was room before, as a batch may have grown."""
        self._ahead -= count
        if self.room:
            self.tell(lambda handler: handler.on_writable(self))

    def tell(self, event: Event) -> None:
        """Call the handler; it may not raise, and if it does the lane ends."""
        if self._handler is None:
            return
        try:
            event(self._handler)
        except Exception as error:
            self._post(self._inner.fail, error)
            raise

    def inner_ended(self, reason: TunnelError) -> None:
        """The thread's lane ended by itself."""
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_end(self, reason)

    def notify(self, call: Callable[..., object], *args: object) -> bool:
        """Run ``call`` in the owner's loop, from the thread; False when that loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)
            return True
        return False

    def _run(self) -> None:
        self._theirs.run_until_complete(self._inner.gone.wait())
        if not self.notify(self._retire):
            self._theirs.close()

    def _retire(self) -> None:
        self._theirs.close()
        self.gone.set()


class _Worker:
    """What runs in the thread: sends what the owner queued, collects what arrives. Implements LaneHandler."""

    def __init__(self, owner: ThreadLane, inner: WatchedLane[Any], outbox: deque[bytes | Outgoing]) -> None:
        self.called = False  # to ``push``, which has not begun yet
        self._owner = owner
        self._inner = inner
        self._outbox = outbox
        self._sent = 0  # what left of which the owner has not heard: see _weight
        self._batch: list[Event] = []

    def push(self) -> None:
        """Send what is queued."""
        self.called = False  # first: for what is queued from here on there will be another call
        inner, outbox = self._inner, self._outbox
        try:
            while outbox:
                self._send(outbox.popleft())
            inner.flush()
        except Exception as error:  # a frame is lost: its stream must not wait for it
            inner.fail(error)
            raise
        self.on_writable(inner)

    def _send(self, item: bytes | Outgoing) -> None:
        if isinstance(item, bytes):
            self._inner.send_control(item)
        else:
            self._sent += _weight(item)
            self._inner.send(item)

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Keep a frame for the owner."""
        self._batch.append(lambda handler: handler.on_frame(self._owner, frame, sequence))

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: memoryview) -> None:
        """Keep payload for the owner, where it lies."""
        self._batch.append(lambda handler: handler.on_payload(self._owner, stream, offset, payload))

    def on_batch_end(self, lane: Lane) -> None:
        """Pass on what came, and let its memory rest until the owner is through with it."""
        if self._batch:
            self._inner.pause_reading()
            batch, self._batch = self._batch, []
            self._owner.notify(self._owner.take, batch)

    def on_writable(self, lane: Lane) -> None:
        """Tell the owner what left, once there is room for more."""
        if self._sent and lane.room:
            count, self._sent = self._sent, 0
            self._owner.notify(self._owner.passed_on, count)

    def on_tick(self, lane: Lane) -> None:
        """A few seconds went by."""
        self._owner.notify(self._owner.tell, lambda handler: handler.on_tick(self._owner))

    def on_worn(self, lane: Lane) -> None:
        """A key has protected as many records as it should."""
        self._owner.notify(self._owner.tell, lambda handler: handler.on_worn(self._owner))

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The lane is gone."""
        self._owner.notify(self._owner.inner_ended, reason)

"""A minimal session on a lane: the tasks of a link, without sockets of hypervisors.

The content of a stream is a function of its sender, number and offset. So every byte is checked where it
arrives: lost, duplicated, reordered or misrouted bytes are detected immediately, and no test has to store
what it sent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from tests.support.localpipes import LocalPipe
from tunnel.errors import TunnelError
from tunnel.lanes import lane as lanes
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.lane import Lane
from tunnel.units import MIB
from tunnel.wire import events, negotiation
from tunnel.wire.codec import encode
from tunnel.wire.codes import MAX_DATA, Code
from tunnel.wire.frames import Frame, Hello, Welcome
from tunnel.wire.payload import Payload, in_memory
from tunnel.wire.session import Session, Settings

TARGET = "tcp:127.0.0.1:49152"
SESSION = b"S" * 16
TURN = 4 * MIB
LARGE = (MAX_DATA,)

_PERIOD = 1_048_583  # prime, so that no frame size hides a shift
_NOISE = random.Random(16515).randbytes(_PERIOD) * 2


def content(stream: int, start: int, length: int, *, initiator: bool) -> bytes:
    """Return what the ``initiator``, or the acceptor, sends on ``stream``: at most ``MAX_DATA`` bytes."""
    first = (start + stream * 7919 + initiator * 524_287) % _PERIOD
    return _NOISE[first : first + length]


@dataclass
class Source:
    """Data that a host sends on a stream; ``sizes`` are the maximum sizes of its DATA frames in turn."""

    total: int
    sizes: Iterator[int]
    finish: bool
    sent: int = 0


@dataclass
class Sink:
    """The received data of a stream. While ``paused`` nothing counts as delivered."""

    received: int = 0
    undelivered: int = 0
    paused: bool = False
    ended: bool = False


class NoSinks:
    """The part of a PayloadHandler that tests without bulk do not need."""

    fan = 1

    def sink(self, stream: int) -> lanes.Sink | None:
        return None

    def on_passed(self, stream: int, offset: int, count: int, error: OSError | None) -> None:
        raise AssertionError("there is no sink")


@dataclass
class Host:
    """One end: implements LaneHandler and PayloadHandler."""

    initiator: bool
    settings: Settings = field(default_factory=Settings)
    frames: list[Frame] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)  # names of the handlers' methods, in order of the calls
    ends: list[TunnelError] = field(default_factory=list)
    sources: dict[int, Source] = field(default_factory=dict)
    sinks: dict[int, Sink] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    resets: dict[int, Code] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    on_any_frame: Callable[[Frame], None] = lambda frame: None

    def __post_init__(self) -> None:
        self._lane: Lane | None = None
        self._session: Session | None = None
        self._offer = negotiation.hello(SESSION, b"I" * 16, self.settings.limits)
        self._fresh: list[tuple[int, bytes | memoryview]] = []
        self._kicked = False
        self._locals: dict[int, LocalPipe] = {}  # for lanes that move payload themselves

    @property
    def lane(self) -> Lane:
        assert self._lane is not None
        return self._lane

    @property
    def session(self) -> Session:
        assert self._session is not None
        return self._session

    @property
    def ready(self) -> bool:
        return self._session is not None

    def own(self, lane: Lane) -> None:
        """Start a lane, with HELLO if this host is the initiator."""
        self._lane = lane
        lane.start(self)
        if self.initiator:
            lane.send_control(encode(self._offer))
            lane.flush()

    def inherit(self, other: Host) -> None:
        """Take over the lane and the session of another host."""
        self._lane, self._session = other.lane, other.session
        self._lane.hand_over(self)
        cast("BaseLane[Any]", self._lane)._payload = self

    # Called by tests.

    def open(self, *, paused: bool = False) -> int:
        number = self.session.open(TARGET)
        self.sinks[number] = Sink(paused=paused)
        self.kick()
        return number

    def send(
        self, number: int, total: int, sizes: Iterable[int] = (MAX_DATA,), *, finish: bool = True
    ) -> None:
        """Send bytes of the stream's content, then FIN."""
        self.sources[number] = Source(total, itertools.cycle(sizes), finish)
        self._start(number)

    def resume(self, number: int) -> None:
        """Deliver the data that a paused sink held, and continue."""
        sink = self.sinks[number]
        sink.paused = False
        count, sink.undelivered = sink.undelivered, 0
        if count:
            self._delivered(number, count)

    def reset(self, number: int) -> None:
        self.session.reset(number, Code.LOCAL_RESET, "reset by the test")
        self.sources.pop(number, None)
        self.closed.add(number)
        self.kick()

    def _start(self, number: int) -> None:
        if number in self.opened and number in self.sources:
            self.session.ready(number)
            self.kick()

    # LaneHandler.

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        self.calls.append("on_frame")
        self.frames.append(frame)
        self.on_any_frame(frame)
        match frame:
            case Hello():
                answer = negotiation.welcome(frame, b"J" * 16, self.settings.limits)
                lane.send_control(encode(answer))
                self._attach(Session(frame.session, self.settings, frame.limits, initiator=False))
            case Welcome():
                negotiation.check_welcome(self._offer, frame)
                self._attach(Session(frame.session, self.settings, frame.limits, initiator=True))
            case _:
                self._act(self.session.receive(frame, sequence))
        self.kick()

    def deliver(self, stream: int, offset: int, payload: Payload) -> None:
        self.calls.append("deliver")
        for piece in self.session.data(stream, offset, payload):
            self._fresh.append((stream, in_memory(piece.content)))

    def flush(self) -> None:
        self.calls.append("flush")
        fresh, self._fresh = self._fresh, []
        for number, data in fresh:
            if number in self.closed:
                continue
            self._judge(number, data)
            if self.sinks[number].paused:
                self.sinks[number].undelivered += len(data)
            else:
                self._delivered(number, len(data))

    def on_writable(self, lane: Lane) -> None:
        self.calls.append("on_writable")
        self._fill()

    def on_tick(self, lane: Lane) -> None:
        self.calls.append("on_tick")

    def on_worn(self, lane: Lane) -> None:
        self.calls.append("on_worn")
        self.session.flush_credits()
        self.kick()

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        self.calls.append("on_end")
        self.ends.append(reason)

    def _attach(self, session: Session) -> None:
        self._session = session
        session.recovery.attach(1)
        self.lane.attached(1, self)

    # Payload that a lane moves itself.

    def _local(self, stream: int) -> LocalPipe:
        if stream not in self._locals:
            self._locals[stream] = LocalPipe()
        return self._locals[stream]

    @property
    def fan(self) -> int:
        return len(self.sinks)

    def sink(self, stream: int) -> lanes.Sink | None:
        sink, (offset, limit) = self.sinks.get(stream), self.session.expects(stream)
        if sink is None or sink.paused or self._fresh or not limit:
            return None
        return lanes.Sink(self._local(stream).ours, offset, limit)

    def on_passed(self, stream: int, offset: int, count: int, error: OSError | None) -> None:
        self.calls.append("on_passed")
        assert error is None
        self.session.data(stream, offset, range(count))
        data = memoryview(self._local(stream).hear(count))
        for start in range(0, count, MAX_DATA):
            self._judge(stream, data[start : start + MAX_DATA])
        self._delivered(stream, count)

    def _carry(self, number: int, source: Source, length: int) -> int:
        """Let the lane read and send up to ``length`` bytes of a stream; return how many it sent."""
        offset = source.sent
        local = self._local(number)
        offered = local.say(content(number, offset, length, initiator=self.initiator))
        rooms = [memoryview(bytearray(offered // 3)), memoryview(bytearray(offered - offered // 3))]
        taken = self.lane.carry(local.ours, number, offset, rooms).taken
        local.unsay(offered - taken)
        source.sent += taken
        kept = [rooms[0][:taken], rooms[1][: max(0, taken - len(rooms[0]))]]
        if taken:
            self.session.carried(number, [part for part in kept if part], self.lane.epoch)
        return taken

    def _judge(self, number: int, data: bytes | memoryview) -> None:
        sink = self.sinks[number]
        if bytes(data) != content(number, sink.received, len(data), initiator=not self.initiator):
            self.faults.append(f"wrong bytes on stream {number} at {sink.received}")
        sink.received += len(data)

    def _delivered(self, number: int, count: int) -> None:
        now = asyncio.get_running_loop().time()
        self._act(self.session.delivered(number, count, now))
        self.kick()

    def _act(self, reported: Iterable[events.Event]) -> None:
        for event in reported:
            match event:
                case events.StreamRequested():
                    self.session.accept(event.stream)
                    self.sinks[event.stream] = Sink()
                    self.opened.add(event.stream)
                case events.StreamOpened():
                    self.opened.add(event.stream)
                    self._start(event.stream)
                case events.StreamEnded():
                    self.sinks[event.stream].ended = True
                case events.StreamClosed():
                    self.closed.add(event.stream)
                case events.StreamReset() | events.StreamRefused():
                    self.resets[event.stream] = event.code
                    self.closed.add(event.stream)
                    self.sources.pop(event.stream, None)

    # Sending.

    def kick(self) -> None:
        if not self._kicked:
            self._kicked = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._kicked = False
        self._fill()

    def _fill(self) -> None:
        left = TURN
        while self.lane.room:
            if left <= 0:
                self.kick()
                return
            if self.ready and (control := self.session.control()):
                self.lane.send_control(control)
            count = self._send_next()
            if not (count or (self.ready and self.session.has_control)):
                self.lane.flush()
                return
            left -= count

    def _send_next(self) -> int:
        """Send data of the next stream; return how many bytes."""
        while self.ready and self.lane.room and (picked := self.session.pick()) is not None:
            number, allowance = picked
            source = self.sources[number]
            length = min(allowance, self.lane.batch, next(source.sizes), source.total - source.sent)
            if length and self.lane.carries:
                return self._carry(number, source, length)
            if length:
                data = content(number, source.sent, length, initiator=self.initiator)
                source.sent += length
                self.lane.send(self.session.send(number, data, self.lane.epoch))
                return length
            self.session.not_ready(number)
            if source.finish:
                self.session.finish(number)
        return 0

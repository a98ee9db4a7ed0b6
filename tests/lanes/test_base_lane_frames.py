"""The base class of lanes, without a network: parsing, change of handler, keepalive, closing.

``test_lane`` tests the whole contract for every kind.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.driver import NoSinks
from tests.support.waiting import turns, until
from tunnel.errors import LaneLost, ProtocolError, RefusedError, TunnelError
from tunnel.lanes import base_lane as module
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.lane import Lane
from tunnel.tls.lane_kinds import LaneKind
from tunnel.wire import keepalive
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import HEADER_SIZE, Code
from tunnel.wire.frames import Credit, Fin, Frame, GoAway, Open, Ping, Pong
from tunnel.wire.lane_protocol import Decoder
from tunnel.wire.payload import Outgoing, Payload, copied
from tunnel.wire.rotation import KEY_LIMIT
from tunnel.wire.states import LaneState

pytestmark = pytest.mark.usefixtures("quiet_loop")

STREAM = (
    encode(Open(1, 64, "unix:/run/qemu/a"), 0) + data_header(1, 0, 5) + b"hello" + encode(Credit(1, 3, 9))
)
HEARD = [("frame", "OPEN"), ("payload", 1, 0, b"hello"), ("frame", "CREDIT")]


class DeafLane(BaseLane[bytes]):
    """Records what it would send."""

    kind = LaneKind.USERSPACE

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "hostb", LaneState.ATTACHED)
        self.sent = b""
        self.lingering = False
        self.released = 0
        self.flushed = b""
        self.breaks_on_flush = False

    cipher = "none"
    batch = 1 << 20
    room = True
    records_sent = records_received = 0  # to be set by tests

    def send_control(self, frames: bytes) -> None:
        self.sent += frames

    def send(self, outgoing: Outgoing) -> None:
        self.sent += outgoing.header + copied(outgoing.piece.content)

    def flush(self) -> None:
        self.flushed = self.sent
        if self.breaks_on_flush:
            self._lost("Broken pipe")

    def _start_reading(self) -> None: ...

    def _push(self) -> bool:
        return True

    def _read(self) -> bool:
        return False

    def _say_goodbye(self) -> None: ...

    def _discard(self) -> None: ...

    def _begin_linger(self) -> None:
        self.lingering = True

    def _release(self) -> None:
        self.released += 1

    def said(self) -> list[Frame]:
        """The control frames that were sent."""
        frames: list[Frame] = []
        decoder, rest = Decoder(), memoryview(self.sent)
        while rest:
            taken, frame = decoder.feed(rest)
            rest = rest[taken:]
            frames += [frame] if frame else []
        return frames


class Recorder(NoSinks):
    """Implements LaneHandler and PayloadHandler."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.batches = 0
        self.ticks = 0
        self.ends: list[TunnelError] = []
        self.fault: Exception | None = None
        self.heir: Recorder | None = None

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.heard.append(("frame", frame.type.name))
        if self.heir is not None:
            lane.hand_over(self.heir)
            cast("DeafLane", lane)._payload = self.heir

    def deliver(self, stream: int, offset: int, payload: Payload) -> None:
        self.heard.append(("payload", stream, offset, copied(payload)))

    def flush(self) -> None:
        self.batches += 1

    def on_writable(self, lane: Lane) -> None: ...

    def on_tick(self, lane: Lane) -> None:
        self.ticks += 1

    def on_worn(self, lane: Lane) -> None: ...

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        self.ends.append(reason)

    @property
    def joined(self) -> list[tuple[Any, ...]]:
        """The recorded events, with consecutive pieces of payload joined."""
        found: list[tuple[Any, ...]] = []
        for event in self.heard:
            last = found[-1] if found else ("",)
            if event[0] == last[0] == "payload" and event[2] == last[2] + len(last[3]):
                found[-1] = (*last[:3], last[3] + event[3])
            else:
                found.append(event)
        return found


@pytest.fixture
async def lane() -> AsyncIterator[DeafLane]:
    one, other = socket.socketpair()
    with one, other:
        made = DeafLane(one)
        yield made
        made.abort()


@pytest.fixture
def handler(lane: DeafLane) -> Recorder:
    recorder = lane._payload = Recorder()
    lane.start(recorder)
    return recorder


def feed(lane: DeafLane, *chunks: bytes) -> None:
    for chunk in chunks:
        lane._received(memoryview(chunk))


# Parsing.


@pytest.mark.parametrize("size", [1, 2, 3, 19, 20, 21, 1000])
async def test_frames_are_the_same_however_the_bytes_are_split(
    lane: DeafLane, handler: Recorder, size: int
) -> None:
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    feed(lane, *chunks)
    assert handler.joined == HEARD
    assert handler.batches == len(chunks)


async def test_frames_are_the_same_wherever_the_bytes_are_split(lane: DeafLane, handler: Recorder) -> None:
    frames = STREAM[: -len(encode(Credit(1, 3, 9)))]
    for cut in range(1, len(frames)):
        handler.heard.clear()
        feed(lane, frames[:cut], frames[cut:])
        assert handler.joined == HEARD[:2], cut


async def test_payload_is_not_copied(lane: DeafLane, handler: Recorder) -> None:
    memory = bytearray(data_header(1, 0, 5) + b"hello")
    views: list[Payload] = []
    handler.deliver = lambda stream, offset, payload: views.append(payload)  # type: ignore[method-assign]  # only here
    lane._received(memoryview(memory))
    memory[HEADER_SIZE] = ord("J")
    assert copied(views[0]) == b"Jello"


async def test_a_ping_is_answered_immediately(lane: DeafLane, handler: Recorder) -> None:
    feed(lane, encode(Ping(4711)))
    assert lane.flushed == encode(Pong(4711))
    assert handler.heard == []


# Handlers.


async def test_a_handler_may_pass_the_lane_to_another_between_two_frames(
    lane: DeafLane, handler: Recorder
) -> None:
    handler.heir = Recorder()
    feed(lane, STREAM)
    assert handler.joined == HEARD[:1]
    assert handler.heir.joined == HEARD[1:]
    assert handler.heir.batches == 1


async def test_nothing_after_goaway_is_delivered(lane: DeafLane, handler: Recorder) -> None:
    feed(lane, STREAM + encode(GoAway(Code.DRAINING, "maintenance")) + STREAM, STREAM)
    await until(lambda: handler.ends)
    assert handler.joined == HEARD
    assert isinstance(handler.ends[0], RefusedError)
    assert handler.ends[0].code is Code.DRAINING
    assert "maintenance" in str(handler.ends[0])
    assert lane.lingering


async def test_an_error_of_the_handler_is_sent_as_goaway(lane: DeafLane, handler: Recorder) -> None:
    handler.fault = ProtocolError(Code.FLOW_CONTROL, "too much")
    feed(lane, STREAM)
    await until(lambda: handler.ends)
    assert handler.ends == [handler.fault]
    (goaway,) = lane.said()
    assert isinstance(goaway, GoAway)
    assert goaway.code is Code.FLOW_CONTROL
    assert "too much" in goaway.reason
    assert handler.batches == 1, "earlier payload has still to be written"


async def test_an_exception_at_the_end_of_a_batch_ends_the_lane(
    lane: DeafLane, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise there might still be views of memory that is about to be reused."""
    monkeypatch.setattr(handler, "flush", {}.popitem)
    with pytest.raises(KeyError):
        feed(lane, STREAM)
    await until(lambda: handler.ends)
    assert "internal error: " in str(handler.ends[0])
    (goaway,) = lane.said()
    assert isinstance(goaway, GoAway)
    assert goaway.code is Code.INTERNAL


async def test_on_end_is_called_later_and_once(lane: DeafLane, handler: Recorder) -> None:
    lane._lost("Broken pipe")
    assert handler.ends == [], "not from within the call"
    lane._lost("lost again")
    lane.close(Code.NONE, "")
    lane.abort()
    await turns()
    assert [str(end) for end in handler.ends] == [f"connection with hostb ({lane.remote}) lost: Broken pipe"]
    assert lane.state is LaneState.CLOSED


async def test_close_sends_goaway_once(lane: DeafLane, handler: Recorder) -> None:
    lane.close(Code.DRAINING, "bye")
    lane.close(Code.NONE, "again")
    await turns()
    assert lane.said() == [GoAway(Code.DRAINING, "bye")]
    assert lane.lingering
    assert handler.ends == []


async def test_abort_sends_nothing(lane: DeafLane, handler: Recorder) -> None:
    lane.abort()
    await turns()
    assert lane.sent == b""
    assert lane.released
    assert handler.ends == []


async def test_a_frame_that_the_state_forbids_is_not_delivered(lane: DeafLane, handler: Recorder) -> None:
    lane._protocol.state = LaneState.AWAIT_WELCOME
    feed(lane, encode(Fin(1, 0)))
    await until(lambda: handler.ends)
    assert isinstance(handler.ends[0], ProtocolError)
    assert handler.ends[0].code is Code.HANDSHAKE
    assert handler.heard == []


# Keepalive, on a fake clock.


@pytest.fixture
def clock(lane: DeafLane, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the lane, as the only element. Tests call ``_tick`` instead of timers."""
    now = [time.monotonic()]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0]))
    return now


async def test_pings_are_sent_at_regular_intervals(
    lane: DeafLane, handler: Recorder, clock: list[float]
) -> None:
    for _ in range(2):
        lane._tick()
        clock[0] += keepalive.INTERVAL / 2
        lane._tick()
        clock[0] += keepalive.INTERVAL / 2
    assert lane.said() == [Ping(1), Ping(2)]
    assert handler.ticks == 4, "also without a PING"


async def test_a_peer_that_sends_nothing_is_lost_after_the_timeout_and_not_before(
    lane: DeafLane, handler: Recorder, clock: list[float]
) -> None:
    lane._tick()
    clock[0] += keepalive.TIMEOUT - 0.01
    lane._tick()
    await turns()
    assert handler.ends == []
    clock[0] += 0.02
    lane._tick()
    await until(lambda: handler.ends)
    assert isinstance(handler.ends[0], LaneLost)
    assert lane.released


async def test_the_round_trip_is_that_of_the_last_ping(
    lane: DeafLane, handler: Recorder, clock: list[float]
) -> None:
    assert lane.round_trip == 0.0
    lane._tick()
    clock[0] += 0.25
    feed(lane, encode(Pong(7)))
    assert lane.round_trip == 0.0, "no PING had that token"
    feed(lane, encode(Pong(1)))
    assert lane.round_trip == 0.25
    clock[0] += 1
    feed(lane, encode(Pong(1)))
    assert lane.round_trip == 0.25, "a reply counts once"


async def test_the_distance_is_the_minimum_of_recent_round_trips(
    lane: DeafLane, handler: Recorder, clock: list[float]
) -> None:
    assert lane.distance == 0.0
    for number, seconds in enumerate((0.02, 0.01, 0.5), start=1):
        lane._tick()
        clock[0] += seconds
        feed(lane, encode(Pong(number)))
        clock[0] += keepalive.INTERVAL
    assert lane.distance == pytest.approx(0.01)
    assert lane.round_trip == pytest.approx(0.5)


async def test_an_exception_in_on_tick_ends_the_lane(
    lane: DeafLane, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "on_tick", {}.__getitem__)
    with pytest.raises(KeyError):
        lane._tick()
    await until(lambda: handler.ends)
    assert "internal error: " in str(handler.ends[0])


async def test_a_failure_while_sending_a_ping_ends_the_lane(
    lane: DeafLane, handler: Recorder, clock: list[float]
) -> None:
    lane.breaks_on_flush = True
    lane._tick()
    await until(lambda: handler.ends)
    assert handler.ticks == 0
    assert isinstance(handler.ends[0], LaneLost)


async def test_an_ended_lane_sends_no_ping(lane: DeafLane, handler: Recorder, clock: list[float]) -> None:
    lane.abort()
    lane._tick()
    assert lane.sent == b""


async def test_attaching_does_not_call_the_handler_synchronously(lane: DeafLane, handler: Recorder) -> None:
    lane.attached(3, handler)
    assert (lane.epoch, lane.state, handler.ticks) == (3, LaneState.ATTACHED, 0)
    await until(lambda: handler.ticks)


# Key limits.


async def test_on_worn_is_called_once_and_the_key_limit_is_a_loss(lane: DeafLane) -> None:
    worn: list[Lane] = []
    handler = Recorder()
    handler.on_worn = worn.append  # type: ignore[method-assign, assignment]  # only in this test
    lane.start(handler)
    lane.warn_at(5000)
    assert lane._mark == 5000
    lane._used(5000)
    assert lane._mark == KEY_LIMIT
    assert worn == [], "not from within a call of the owner"
    await turns()
    assert worn == [lane]
    lane._used(KEY_LIMIT + 3)
    await turns()
    assert worn == [lane]
    [reason] = handler.ends
    assert isinstance(reason, LaneLost)
    assert f"TLS key limit reached: {KEY_LIMIT + 3} records" in str(reason)


async def test_no_mark_is_above_the_limit(lane: DeafLane) -> None:
    assert lane._mark == KEY_LIMIT < 2**24.5
    lane.warn_at(1 << 30)
    assert lane._mark == KEY_LIMIT


async def test_an_ended_lane_does_not_report_key_limits(lane: DeafLane) -> None:
    handler = Recorder()
    lane.start(handler)
    lane._used(KEY_LIMIT)
    lane.abort()
    await turns()
    assert handler.ends == []

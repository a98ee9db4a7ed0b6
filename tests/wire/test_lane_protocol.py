"""The protocol of one lane, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tunnel.errors import ProtocolError
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import Credit, Fin, Frame, GoAway, Limits, Open, Ping, Pong
from tunnel.wire.keepalive import INTERVAL
from tunnel.wire.lane_protocol import Decoder, LaneProtocol
from tunnel.wire.negotiation import hello
from tunnel.wire.states import LaneState

HELLO = hello(b"R" * 16, b"I" * 16, Limits(streams=16, control=64))


def heard(lane: LaneProtocol, data: bytes, now: float = 0.0) -> list[Frame]:
    """Return the frames in ``data`` that the lane's owner gets; payload is skipped."""
    frames: list[Frame] = []
    view = memoryview(data)
    while view:
        taken = min(len(view), lane.decoder.payload_left)
        if taken:
            lane.decoder.moved(taken)
        else:
            taken, frame = lane.feed(view, now)
            frames += [frame] if frame else []
        view = view[taken:]
    return frames


def said(frames: bytes) -> Iterator[Frame]:
    decoder, rest = Decoder(), memoryview(frames)
    while rest:
        taken, frame = decoder.feed(rest)
        rest = rest[taken:]
        if frame:
            yield frame


@pytest.fixture
def lane() -> LaneProtocol:
    lane = LaneProtocol(LaneState.AWAIT_WELCOME, now=0.0)
    lane.attach()
    return lane


def test_an_acceptor_answers_and_is_attached() -> None:
    lane = LaneProtocol(LaneState.AWAIT_FIRST, now=0.0)
    assert heard(lane, encode(HELLO)) == [HELLO]
    before = lane.state
    lane.attach()
    answered = lane.state
    assert heard(lane, encode(Fin(1, 0))) == [Fin(1, 0)]
    assert (before, answered, lane.state) == (LaneState.DECIDING, LaneState.ANSWERED, LaneState.ATTACHED)


@given(cuts=some.lists(some.integers(1, 200), max_size=9))
def test_frames_are_the_same_wherever_bytes_are_cut(cuts: list[int]) -> None:
    lane = LaneProtocol(LaneState.ATTACHED, now=0.0)
    first, credit, last = Open(1, 64, "unix:/run/qemu/a"), Credit(1, 3, 9), GoAway(Code.DRAINING, "bye")
    data = (
        encode(first, 0) + data_header(1, 0, 50) + bytes(50) + encode(Ping(3)) + encode(credit) + encode(last)
    )
    found: list[Frame] = []
    position = 0
    for size in [*cuts, len(data)]:
        found += heard(lane, data[position : position + size])
        position += size
    assert found == [first, credit, last]
    assert lane.pong() == encode(Pong(3))


def test_a_frame_that_the_state_forbids_is_a_protocol_error() -> None:
    lane = LaneProtocol(LaneState.AWAIT_WELCOME, now=0.0)
    with pytest.raises(ProtocolError) as caught:
        heard(lane, encode(Fin(1, 0)))
    assert caught.value.code is Code.HANDSHAKE


def test_the_newest_ping_is_answered_for_all_before_it(lane: LaneProtocol) -> None:
    assert lane.pong() == b""
    assert heard(lane, b"".join(encode(Ping(token)) for token in range(100))) == []
    assert lane.owes_pong
    assert list(said(lane.pong())) == [Pong(99)]
    assert not lane.owes_pong


def test_an_answer_to_a_later_ping_is_one_to_an_earlier_one(lane: LaneProtocol) -> None:
    asked, first = lane.ask(10.0)
    later, second = lane.ask(11.0)
    assert [*said(first), *said(second)] == [Ping(asked), Ping(later)]
    assert heard(lane, encode(Pong(later)), now=11.5) == [Pong(later)]
    assert lane.keepalive.answered >= asked
    assert lane.keepalive.round_trip == 0.5


@pytest.mark.parametrize("state", [LaneState.AWAIT_FIRST, LaneState.AWAIT_WELCOME, LaneState.AWAIT_RESUMED])
def test_without_streams_the_acceptor_relies_on_the_pings_of_the_initiator(state: LaneState) -> None:
    lane = LaneProtocol(state, now=0.0)
    assert lane.poll(0.0, idle=True)
    lane.keepalive.heard_at = INTERVAL
    assert bool(lane.poll(INTERVAL, idle=True)) is (state is not LaneState.AWAIT_FIRST)
    lane.keepalive.heard_at = 2 * INTERVAL
    assert lane.poll(2 * INTERVAL)


def test_goaway_follows_the_first_ping_of_an_attached_lane(lane: LaneProtocol) -> None:
    """Without a frame before it, GOAWAY ends only the lane at the peer, and not the session."""
    frames = list(said(lane.close(Code.DRAINING, "bye", 0.0)))
    assert frames == [Ping(1), GoAway(Code.DRAINING, "bye")]
    assert lane.state is LaneState.CLOSED


def test_goaway_needs_no_ping_where_one_was_sent_or_there_is_no_session(lane: LaneProtocol) -> None:
    assert lane.poll(0.0)
    assert list(said(lane.close(Code.NONE, "", 1.0))) == [GoAway(Code.NONE, "")]
    other = LaneProtocol(LaneState.AWAIT_FIRST, now=0.0)
    assert list(said(other.close(Code.DRAINING, "no", 1.0))) == [GoAway(Code.DRAINING, "no")]

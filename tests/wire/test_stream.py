"""One stream at one end: what may be sent, what is kept, what is sent again, when it is complete."""

from __future__ import annotations

import pytest

from tunnel.errors import MisuseError, ProtocolError
from tunnel.wire.codec import data_header, parse_header
from tunnel.wire.codes import HEADER_SIZE, Code
from tunnel.wire.frames import Position
from tunnel.wire.payload import Outgoing
from tunnel.wire.reassembly import PAGE
from tunnel.wire.states import Call, Receiving, SendState, StreamPhase
from tunnel.wire.stream import Stream

DATA = bytes(range(100))


def opened(limit: int = 100, window: int = 100) -> Stream:
    """Return a stream that the peer has opened to us for ``limit`` bytes."""
    stream = Stream(1, "tcp:127.0.0.1:49152", StreamPhase.OPENING, window)
    stream.opened(limit)
    return stream


def sending(*sizes: int, lane: int = 1) -> Stream:
    """Return a stream on which payloads of these sizes were sent, one after the other."""
    stream = opened()
    for size in sizes:
        stream.send(DATA[stream.out.sent :][:size], lane)
    return stream


def span(outgoing: Outgoing | None) -> tuple[int, int] | None:
    """Return where a DATA frame starts and stops."""
    if outgoing is None:
        return None
    header = parse_header(outgoing.header)
    piece = outgoing.piece
    assert isinstance(piece.payload, bytes)
    assert piece.payload[piece.start : piece.stop] == DATA[header.offset : header.offset + header.length]
    return header.offset, header.offset + header.length


def again(stream: Stream, lane: int) -> list[tuple[int, int]]:
    """Replay everything on ``lane``."""
    spans = []
    while (found := span(stream.replay(lane))) is not None:
        spans.append(found)
    return spans


def at(received: int, delivered: int = 0, limit: int = 100) -> Position:
    return Position(1, received, delivered, limit)


# Sending.


def test_nothing_is_sent_before_opened() -> None:
    stream = Stream(1, "x", StreamPhase.OPENING, 100)
    assert stream.out.limit - stream.out.sent == 0
    for act in (lambda: stream.send(b"x", 1), stream.finish):
        with pytest.raises(MisuseError, match="while OPENING"):
            act()


def test_the_acceptor_sends_nothing_before_it_accepted() -> None:
    stream = Stream(1, "x", StreamPhase.DIALLING, 100)
    with pytest.raises(MisuseError, match="SEND while DIALLING"):
        stream.send(b"x", 1)


def test_frames_follow_each_other() -> None:
    stream = opened()
    assert stream.send(DATA[:30], 1).header == data_header(1, 0, 30)
    assert stream.send(DATA[30:35], 1).header == data_header(1, 30, 5)
    assert (stream.out.sent, stream.out.limit - stream.out.sent, stream.out.unacknowledged) == (35, 65, 35)
    assert len(data_header(1, 0, 30)) == HEADER_SIZE


def test_credit_releases_what_was_delivered() -> None:
    stream = sending(30, 30)
    assert stream.credited(40, 140) == 40
    assert [(kept.offset, kept.end) for kept in stream._kept] == [(30, 60)]
    assert stream.credited(10, 110) == 0
    assert stream.credited(60, 160) == 20
    assert not stream._kept


def test_after_the_end_nothing_is_sent() -> None:
    stream = sending(30)
    assert stream.finish() == 30
    for act in (lambda: stream.send(b"x", 1), stream.finish):
        with pytest.raises(MisuseError, match="while FINISHED"):
            act()


def test_our_end_is_confirmed() -> None:
    stream = sending(30)
    stream.credited(10, 100)
    stream.finish()
    assert stream.confirmed(30) == 20
    assert (stream.sending, stream.out.unacknowledged) == (SendState.DONE, 0)


@pytest.mark.parametrize("final", [0, 29, 31, 2**64 - 1])
def test_another_end_cannot_be_confirmed(final: int) -> None:
    stream = sending(30)
    stream.finish()
    with pytest.raises(ProtocolError, match=f"DELIVERED {final} for a FIN at 30"):
        stream.confirmed(final)


def test_an_end_that_was_never_sent_cannot_be_confirmed() -> None:
    with pytest.raises(ProtocolError, match="DELIVERED while READY") as caught:
        sending(30).confirmed(30)
    assert caught.value.code is Code.STREAM_STATE


def test_credit_may_come_after_the_confirmation_that_overtook_it() -> None:
    stream = sending(30)
    stream.finish()
    stream.confirmed(30)
    assert stream.credited(20, 120) == 0


# Replay.


def test_what_a_lost_lane_carried_is_sent_again_from_the_peers_position() -> None:
    stream = sending(30, 30, 30)
    assert stream.learn(at(received=40, delivered=10)) == 10
    stream.rewind(alive=set())
    assert again(stream, lane=2) == [(40, 60), (60, 90)]
    assert again(stream, lane=2) == []


def test_what_a_lane_that_is_up_carries_is_not_sent_again() -> None:
    stream = opened()
    for start, lane in ((0, 1), (20, 2), (40, 1), (60, 3)):
        stream.send(DATA[start : start + 20], lane)
    stream.learn(at(received=0))
    stream.rewind(alive={2, 3})
    assert again(stream, lane=4) == [(0, 20), (40, 60)]


def test_a_replay_that_is_lost_itself_is_sent_again() -> None:
    stream = sending(30, 30)
    stream.rewind(alive=set())
    assert again(stream, lane=2) == [(0, 30), (30, 60)]
    stream.learn(at(received=35))
    stream.rewind(alive=set())
    assert again(stream, lane=3) == [(35, 60)]
    stream.rewind(alive={3})
    assert again(stream, lane=4) == []


def test_an_old_position_takes_nothing_back() -> None:
    """It was taken before what arrived since on another lane."""
    stream = sending(30, 30)
    stream.learn(at(received=50, delivered=50))
    assert stream.learn(at(received=10, delivered=10)) == 0
    stream.rewind(alive=set())
    assert again(stream, lane=2) == [(50, 60)]


def test_what_is_delivered_meanwhile_is_not_replayed() -> None:
    stream = sending(30, 30)
    stream.rewind(alive=set())
    stream.credited(40, 140)
    assert again(stream, lane=2) == [(40, 60)], "the owner may have released bytes below 40"


def test_a_position_gives_credit_too() -> None:
    stream = sending(30)
    stream.learn(at(received=30, delivered=30, limit=250))
    assert stream.out.limit - stream.out.sent == 220


@pytest.mark.parametrize(
    "position",
    [
        at(received=31),
        at(received=2**64 - 1),
        at(received=10, delivered=11),
        at(received=2**64 - 1, delivered=2**64 - 1, limit=2**64 - 1),
    ],
)
def test_an_impossible_position(position: Position) -> None:
    with pytest.raises(ProtocolError, match="impossible position of stream 1") as caught:
        sending(30).learn(position)
    assert caught.value.code is Code.FLOW_CONTROL


# Receiving.


def test_data_moves_the_position() -> None:
    stream = opened(window=50)
    assert [len(piece) for piece in stream.arrived(0, DATA[:20])] == [20]
    stream.deliver(5)
    assert stream.take_position() == Position(1, received=20, delivered=5, limit=55)


def test_a_gap_is_no_progress() -> None:
    stream = opened()
    assert stream.arrived(20, DATA[20:40]) == []
    assert (stream.into.received, stream.held) == (0, PAGE)


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (100, 1), (99, 2), (2**64 - 1, 1)])
def test_data_outside_the_window(offset: int, size: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        opened(window=100).arrived(offset, range(size))
    assert caught.value.code is Code.FLOW_CONTROL


def test_no_data_before_the_stream_is_accepted() -> None:
    with pytest.raises(ProtocolError, match="DATA while DIALLING") as caught:
        Stream(1, "x", StreamPhase.DIALLING, 100).arrived(0, b"x")
    assert caught.value.code is Code.STREAM_STATE


def test_data_may_overtake_opened() -> None:
    stream = Stream(1, "x", StreamPhase.OPENING, 100)
    assert len(stream.arrived(0, b"abc")) == 1
    assert not stream.deliver(3)
    stream.opened(100)
    assert stream.phase is StreamPhase.OPEN


def test_no_more_is_delivered_than_arrived() -> None:
    stream = opened()
    stream.arrived(0, DATA[:10])
    stream.arrived(20, DATA[20:30])
    stream.deliver(10)
    with pytest.raises(MisuseError, match="1 bytes delivered, more than have arrived"):
        stream.deliver(1)


def test_the_end_waits_for_data_and_for_delivery() -> None:
    stream = opened()
    stream.ended(30)
    stream.arrived(0, DATA[:30])
    stream.deliver(29)
    assert (stream.try_complete(), stream.receiving) == (None, Receiving.ENDING)
    stream.deliver(1)
    assert stream.try_complete() == 30
    assert (stream.try_complete(), stream.receiving) == (None, Receiving.DONE)


def test_an_empty_direction_ends_immediately() -> None:
    stream = opened()
    stream.ended(0)
    assert stream.try_complete() == 0


def test_the_end_cannot_be_before_data() -> None:
    stream = opened()
    stream.arrived(50, DATA[50:60])
    with pytest.raises(ProtocolError, match="FIN at 59 before data") as caught:
        stream.ended(59)
    assert caught.value.code is Code.PROTOCOL


def test_the_end_cannot_be_outside_the_window() -> None:
    with pytest.raises(ProtocolError) as caught:
        opened(window=100).ended(101)
    assert caught.value.code is Code.FLOW_CONTROL


def test_no_data_after_the_end() -> None:
    stream = opened()
    stream.ended(30)
    with pytest.raises(ProtocolError, match="after the end of stream 1 at 30") as caught:
        stream.arrived(29, b"xx")
    assert caught.value.code is Code.PROTOCOL


def test_a_second_end_is_an_error_even_at_the_same_offset() -> None:
    stream = opened()
    stream.ended(30)
    with pytest.raises(ProtocolError, match="FIN while ENDING") as caught:
        stream.ended(30)
    assert caught.value.code is Code.STREAM_STATE


def test_a_duplicate_may_come_after_everything_is_delivered() -> None:
    stream = opened()
    stream.arrived(0, DATA[:10])
    stream.deliver(10)
    stream.ended(10)
    stream.try_complete()
    assert stream.arrived(0, DATA[:10]) == []


# Both directions.


def test_complete_when_both_directions_are() -> None:
    stream = sending(10)
    stream.ended(0)
    stream.try_complete()
    before = stream.complete
    stream.finish()
    stream.confirmed(10)
    assert (before, stream.complete) == (False, True)


def test_after_a_reset_there_is_no_stream() -> None:
    stream = sending(10)
    stream.advance(Call.RESET)
    with pytest.raises(ProtocolError, match="DATA while CLOSED"):
        stream.arrived(0, b"x")
    with pytest.raises(MisuseError, match="SEND while CLOSED"):
        stream.send(b"x", 1)

"""Sessions, as traces of what each end sends: life cycle of streams, order, windows, credit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sessions import TARGET, WINDOW, Remote, make, opened, said, span
from tunnel.errors import MisuseError
from tunnel.units import KIB, MIB
from tunnel.wire.codec import encode
from tunnel.wire.codes import MAX_DATA, Code, FrameType
from tunnel.wire.events import (
    StreamClosed,
    StreamConfirmed,
    StreamEnded,
    StreamOpened,
    StreamRefused,
    StreamRequested,
    StreamReset,
)
from tunnel.wire.frames import Credit, Delivered, Fin, Limits, Open, Opened, Refused, Reset
from tunnel.wire.scheduler import HEAD_START, LONG_QUANTUM, QUANTUM, SLIVER, Retention
from tunnel.wire.session import Settings
from tunnel.wire.stream import KEPT_COST, Stream
from tunnel.wire.window import FLOOR_WINDOW, KEEP_FLOOR, MAX_WINDOW, ReceiveWindow

# Life cycle of a stream.


def test_life_cycle_of_a_stream_at_its_opener() -> None:
    session = make()
    peer = Remote(session)
    assert session.open(TARGET) == 1
    assert session.target(1) == TARGET
    assert said(session) == [Open(1, WINDOW, TARGET)]
    assert peer.says(Opened(1, 100)) == [StreamOpened(1)]
    session.ready(1)
    assert session.pick() == (1, 100)
    assert span(session.send(1, range(60), lane=1)) == (1, 0, 60)
    session.finish(1)
    assert said(session) == [Fin(1, 60)]
    assert session.unconfirmed(1)
    assert [len(piece) for piece in session.data(1, 0, range(20))] == [20]
    assert peer.says(Fin(1, 20)) == []
    assert session.delivered(1, 20, now=0.0) == [StreamEnded(1)]
    assert said(session) == [Delivered(1, 20)]
    assert peer.says(Delivered(1, 60)) == [StreamClosed(1)]
    assert (session.kept, session._streams, session._registry.budget.used) == (0, {}, 0)


def test_what_a_lane_carried_is_kept_as_if_it_had_been_sent() -> None:
    session = make()
    peer = Remote(session)
    session.open(TARGET)
    peer.says(Opened(1, 3 * MAX_DATA))
    session.ready(1)
    assert session.pick(2 * MAX_DATA) == (1, HEAD_START)
    session.carried(1, [range(HEAD_START)], lane=1)
    assert session.pick(2 * MAX_DATA) == (1, 2 * MAX_DATA)
    session.carried(1, [range(MAX_DATA), range(10)], lane=1)
    sent = HEAD_START + MAX_DATA + 10
    assert session.kept == sent
    for payloads in ([range(1)], []):
        with pytest.raises(MisuseError, match="were not allowed"):
            session.carried(1, payloads, lane=1)  # not before the next ``pick``
    assert session.pick(4 * MAX_DATA) == (1, 3 * MAX_DATA - sent)
    with pytest.raises(MisuseError, match="were not allowed"):
        session.carried(1, [range(3 * MAX_DATA - sent + 1)], lane=1)
    session.recovery.attach(2)
    session.recovery.lost(1)
    again = [session.recovery.next(2) for _ in range(4)]
    assert [(span(outgoing) or ())[1:] for outgoing in again if outgoing] == [
        (0, HEAD_START),
        (HEAD_START, HEAD_START + MAX_DATA),
        (HEAD_START + MAX_DATA, sent),
    ]
    peer.says(Credit(1, sent, 3 * MAX_DATA))
    assert (session.kept, session._senders.retention.used) == (0, 0)


def test_payload_is_expected_at_the_next_offset_up_to_the_window() -> None:
    session = make()
    peer = Remote(session)
    session.open(TARGET)
    nowhere = 0, 0
    assert session.expects(1) == nowhere, "it is not open"
    peer.says(Opened(1, 100))
    assert (session.expects(1), session.expects(3)) == ((0, WINDOW), nowhere)
    session.data(1, 10, bytes(5))
    assert session.expects(1) == nowhere, "data is held after a gap"
    session.data(1, 0, bytes(10))
    assert session.expects(1) == (15, WINDOW)
    peer.says(Fin(1, 20))
    assert session.expects(1) == nowhere, "the session has to process its end"


def test_quanta_are_large_for_a_stream_that_sends_alone() -> None:
    session = make()
    peer = Remote(session)
    for number in (1, 3):
        session.open(TARGET)
        peer.says(Opened(number, WINDOW))
    most = []
    for number in (1, 3):
        session.ready(number)
        for _ in range(2):  # the head start first
            picked, size = session.pick(LONG_QUANTUM) or (0, 0)
            session.carried(picked, [range(size)], lane=1)
        most.append(size)
    assert most == [min(WINDOW - HEAD_START, LONG_QUANTUM), QUANTUM]
    assert (session.turn, session.long_turn) == (QUANTUM, LONG_QUANTUM)


def test_life_cycle_of_a_stream_at_the_other_side() -> None:
    session = make(initiator=False)
    peer = Remote(session)
    assert peer.says(Open(1, 100, TARGET)) == [StreamRequested(1, TARGET)]
    assert (said(session), session.target(1)) == ([], TARGET)
    session.accept(1)
    assert said(session) == [Opened(1, WINDOW)]
    session.ready(1)
    assert session.pick() == (1, 100)
    session.finish(1)
    assert said(session) == [Fin(1, 0)]
    assert peer.says(Delivered(1, 0)) == [StreamConfirmed(1)]
    assert peer.says(Fin(1, 0)) == [StreamEnded(1), StreamClosed(1)]
    assert said(session) == [Delivered(1, 0)]


def test_each_side_numbers_its_own_streams() -> None:
    initiator, acceptor = make(), make(initiator=False)
    assert [initiator.open(TARGET) for _ in range(3)] == [1, 3, 5]
    assert [acceptor.open(TARGET) for _ in range(3)] == [2, 4, 6]


def test_half_closing_leaves_the_other_direction_open() -> None:
    session, peer = opened()
    session.finish(1)
    peer.says(Delivered(1, 0))
    assert len(session.data(1, 0, range(100))) == 1
    with pytest.raises(MisuseError, match="SEND while DONE"):
        session._streams[1].send(range(1), 1)


def test_refused_by_the_peer() -> None:
    session = make()
    session.open(TARGET)
    refusal = Refused(1, Code.TARGET_FORBIDDEN, "not on the list")
    assert Remote(session).says(refusal) == [StreamRefused(1, Code.TARGET_FORBIDDEN, "not on the list")]
    assert session._streams == {}


def test_refused_by_us() -> None:
    session = make(initiator=False)
    Remote(session).says(Open(1, 100, TARGET))
    session.refuse(1, Code.TARGET_UNREACHABLE, "connection refused")
    assert said(session) == [Refused(1, Code.TARGET_UNREACHABLE, "connection refused")]


def test_resetting_a_stream_that_is_not_accepted_yet_refuses_it() -> None:
    session = make(initiator=False)
    Remote(session).says(Open(1, 100, TARGET))
    session.reset(1, Code.DRAINING, "stopping")
    assert said(session) == [Refused(1, Code.DRAINING, "stopping")]


def test_reset_by_us_forgets_everything() -> None:
    session, peer = opened()
    session.ready(1)
    session.send(1, range(100), lane=1)
    session.data(1, 50, range(10))
    session.reset(1, Code.LOCAL_RESET, "connection reset")
    assert said(session) == [Reset(1, Code.LOCAL_RESET, "connection reset")]
    assert (session.kept, session.pick(), session._registry.budget.used) == (0, None, 0)
    assert session._senders.retention.used == 0
    assert peer.says(Credit(1, 100, 200), Fin(1, 0), Delivered(1, 100), Reset(1, Code.NONE, "")) == []


def test_reset_by_the_peer() -> None:
    session, peer = opened()
    assert peer.says(Reset(1, Code.LINK_LOST, "why")) == [StreamReset(1, Code.LINK_LOST, "why")]
    assert session.data(1, 0, range(10)) == [], "it was in flight on another lane"
    with pytest.raises(MisuseError, match="stream 1 is not open"):
        session.delivered(1, 1, now=0.0)


# Quanta and windows.


def test_a_quantum_is_at_most_one_frame_and_the_first_a_head_start() -> None:
    session, _ = opened()
    session.ready(1)
    assert session.pick() == (1, HEAD_START)
    session.send(1, range(HEAD_START), lane=1)
    assert session.pick() == (1, MAX_DATA)


def test_a_full_window_waits_for_credit() -> None:
    session, peer = opened(limit=100)
    session.ready(1)
    session.send(1, range(100), lane=1)
    assert session.pick() is None
    session.ready(1)  # as a pump does again whose socket is readable
    assert session.pick() is None
    peer.says(Credit(1, 25, 125))
    assert session.pick() == (1, 25)


@pytest.mark.parametrize("delivering", [True, False])
def test_credit_by_the_byte_does_not_make_a_frame_of_each(delivering: bool) -> None:
    """Whether the peer enlarges its window so slowly, or delivers so slowly, which frees our memory."""
    session, peer = opened(Settings(memory=64 * KIB), limit=2**40 if delivering else 1)
    session.ready(1)
    frames = 0
    for count in range(1, 20_000):
        while (turn := session.pick()) is not None:
            session.send(1, range(turn[1]), lane=1)
            frames += 1
        peer.says(Credit(1, count, 2**40) if delivering else Credit(1, 0, 1 + count))
    assert 10 < frames < 100


def test_the_last_sliver_is_sent_when_nothing_is_in_flight() -> None:
    session, peer = opened(limit=4 * KIB)
    session.ready(1)
    session.send(1, range(4 * KIB - 10), lane=1)
    assert session.pick() is None
    peer.says(Credit(1, 4 * KIB - 10, 4 * KIB))
    assert session.pick() == (1, 10)


@given(st.integers(1, 8 * KIB), st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_a_peer_that_gives_credit_for_a_quarter_keeps_every_stream_going(
    window: int, sizes: list[int]
) -> None:
    session, peer = opened(limit=window)
    theirs = ReceiveWindow(window)
    session.ready(1)
    for size in sizes:
        turn = session.pick()
        assert turn is not None, "nothing is in flight that it could wait for"
        count = min(size, turn[1])
        session.send(1, range(count), lane=1)
        if theirs.deliver(count):
            peer.says(Credit(1, *theirs.advertise()))


def test_a_stalled_stream_stalls_no_other() -> None:
    session, peer = opened(limit=100, count=2)
    session.ready(1)
    session.ready(3)
    session.send(1, range(100), lane=1)
    for delivered in range(0, 1000, 100):
        assert session.pick() == (3, 100)
        session.send(3, range(100), lane=1)
        peer.says(Credit(3, delivered + 100, delivered + 200))


def test_not_ready_is_not_picked() -> None:
    session, peer = opened(limit=100, count=2)
    session.ready(1)
    session.ready(3)
    session.not_ready(1)
    assert session.pick() == (3, 100)
    session.send(3, range(100), lane=1)
    assert session.pick() is None
    session.not_ready(3)
    peer.says(Credit(3, 100, 200))
    assert session.pick() is None, "it has nothing to send"


def test_memory_bounds_what_is_kept_but_for_a_floor() -> None:
    session, peer = opened(Settings(memory=4 * MIB), count=2)
    session.ready(1)
    for _ in range(4):
        session.send(1, range(MIB - KEPT_COST), lane=1)
    assert session.pick() is None, "the last quarter is for streams that have carried something"
    session.ready(3)
    assert session.pick() == (3, HEAD_START)
    session.send(3, range(HEAD_START), lane=1)
    rest = KEEP_FLOOR - HEAD_START - 2 * KEPT_COST
    assert session.pick() == (3, rest)
    session.send(3, range(rest), lane=1)
    assert (session.pick(), session.kept) == (None, 4 * MIB + KEEP_FLOOR - 6 * KEPT_COST)
    peer.says(Credit(1, 2 * (MIB - KEPT_COST), 2 * WINDOW))
    assert session.pick() == (1, HEAD_START)
    session.send(1, range(HEAD_START), lane=1)
    assert session.pick() == (1, MIB)
    session.not_ready(1)
    assert session.pick() == (3, MIB)


def test_a_stream_that_carried_something_progresses_beside_stalled_ones() -> None:
    session, peer = opened(Settings(memory=8 * MIB), limit=64 * MIB, count=2)
    session.ready(1)
    while not session._streams[1].out.carried:
        turn = session.pick()
        assert turn is not None
        session.send(1, range(turn[1]), lane=1)
        peer.says(Credit(1, session._streams[1].out.sent, 64 * MIB))
    session.ready(3)
    session.not_ready(1)
    while (turn := session.pick()) is not None:
        session.send(3, range(turn[1]), lane=1)
    assert session.kept > 6 * MIB
    session.ready(1)
    sent = 0
    while (turn := session.pick()) is not None:
        assert turn[0] == 1
        session.send(1, range(turn[1]), lane=1)
        sent += turn[1]
    assert sent > 2 * MIB + KEEP_FLOOR - SLIVER - 5 * KEPT_COST
    peer.says(Credit(1, session._streams[1].out.sent - 2 * MIB, 64 * MIB))
    turn = session.pick()
    assert turn is not None
    assert turn[0] == 1, "what it leaves of the reserve stays available to it"


def test_frames_count_with_their_overhead() -> None:
    """However small: frames of single bytes fill the memory like any others."""
    session, peer = opened(Settings(memory=4 * MIB // 3 + 1), limit=4 * MIB, count=2)
    session.ready(1)
    frames = 0
    while session.pick() is not None:
        session.send(1, b"x", lane=1)
        frames += 1
    assert 2 * MIB - 2 * KIB < frames * (1 + KEPT_COST) <= 2 * MIB
    peer.says(Credit(1, 100, WINDOW))
    assert session.kept == frames - 100
    assert session.pick() is not None


def test_a_stalled_stream_is_not_checked_on_credit_of_another() -> None:
    """Otherwise the cost of each credit grows with the number of stalled streams."""
    session, peer = opened(Settings(memory=0), limit=64 * MIB, count=64)
    for number in range(1, 128, 2):
        session.ready(number)
    while (turn := session.pick()) is not None:
        session.send(turn[0], range(turn[1]), lane=1)
    looked, offer = list[int](), Retention.offer

    def look(self: Retention, stream: Stream) -> int:
        looked.append(stream.number)
        return offer(self, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retention, "offer", look)
        peer.says(Credit(1, 128 * KIB, 64 * MIB))
    assert looked == [1]
    turn = session.pick()
    assert turn is not None
    assert turn[0] == 1


def test_windows_share_the_budget() -> None:
    session = make(Settings(memory=8 * MIB))
    for _ in range(3):
        session.open(TARGET)
    limits = [frame.limit for frame in said(session) if isinstance(frame, Open)]
    assert limits[0] == FLOOR_WINDOW + 6 * MIB // 4
    assert limits[1] == FLOOR_WINDOW + (6 * MIB - 6 * MIB // 4) // 4
    session.reset(1, Code.NONE, "")
    assert session._registry.budget.used == sum(limits[1:]) - 2 * FLOOR_WINDOW


# Credit.


def test_credit_reports_what_was_delivered_not_what_arrived() -> None:
    session, _ = opened()
    session.data(1, 0, range(MIB))
    session.data(1, MIB, range(MIB))
    assert said(session) == []
    session.delivered(1, MIB - 1, now=0.0)
    assert said(session) == []
    session.delivered(1, 1, now=0.0)
    assert said(session) == [Credit(1, MIB, MIB + WINDOW)]
    assert said(session) == []


def test_flush_credits_reports_small_amounts() -> None:
    session, _ = opened()
    session.flush_credits()
    assert said(session) == [Credit(0, 1, 1025)], "OPENED was processed"
    session.data(1, 0, range(10))
    session.delivered(1, 3, now=0.0)
    session.flush_credits()
    assert said(session) == [Credit(1, 3, 3 + WINDOW)]
    session.flush_credits()
    assert said(session) == []


def test_the_end_needs_no_credit_before_it() -> None:
    session, peer = opened()
    session.data(1, 0, range(2 * MIB))
    session.delivered(1, MIB, now=0.0)
    peer.says(Fin(1, 2 * MIB))
    session.delivered(1, MIB, now=0.0)
    assert said(session) == [Delivered(1, 2 * MIB)]


def test_a_window_grows_when_it_is_the_bottleneck() -> None:
    session, _ = opened()
    session.round_trip = 0.1
    limits = []
    for turn in range(8):
        session.data(1, turn * MIB, range(MIB))
        session.delivered(1, MIB, now=turn * 0.01)
        limits += [frame.limit - frame.delivered for frame in said(session) if isinstance(frame, Credit)]
    assert limits[0] == WINDOW
    assert limits[1] == 2 * WINDOW
    assert limits == sorted(limits)
    assert session._registry.budget.used == session._streams[1].into.size - FLOOR_WINDOW


def test_a_window_does_not_grow_while_one_credit_waits_for_a_busy_lane() -> None:
    session, _ = opened()
    session.round_trip = 0.1
    for turn in range(4):
        session.data(1, turn * MIB, range(MIB))
        session.delivered(1, MIB, now=turn * 0.01)
    assert said(session) == [Credit(1, 4 * MIB, 4 * MIB + WINDOW)]


def test_a_window_stays_when_the_path_is_the_bottleneck() -> None:
    session, _ = opened()
    session.round_trip = 0.1
    for turn in range(8):
        session.data(1, turn * MIB, range(MIB))
        session.delivered(1, MIB, now=turn * 0.06)
        session.control()
    assert session._streams[1].into.size == WINDOW


def test_a_window_has_a_largest_size() -> None:
    session, _ = opened(Settings(memory=1024 * MIB))
    session.round_trip = 10.0
    for turn in range(400):
        session.data(1, turn * MIB, range(MIB))
        session.delivered(1, MIB, now=turn * 0.01)
        session.control()
    assert session._streams[1].into.size == MAX_WINDOW


# What a lane sends.


def test_control_frames_first_then_acknowledgements_then_credit() -> None:
    session, peer = opened(Settings(Limits(256, control=4)))
    session.data(1, 0, range(2 * MIB))
    session.delivered(1, 2 * MIB, now=0.0)
    peer.says(Open(2, 1, TARGET))
    session.accept(2)
    kinds = [frame.type for frame in said(session)]
    assert kinds == [FrameType.OPENED, FrameType.CREDIT, FrameType.CREDIT]


def test_whole_frames_up_to_about_the_room() -> None:
    session = make()
    for _ in range(5):
        session.open(TARGET)
    size = len(encode(Open(1, WINDOW, TARGET)))
    assert len(session.control(room=size + 1)) == 2 * size
    assert len(session.control()) == 3 * size
    assert session.control() == b""


def test_no_more_control_frames_than_the_peer_allows() -> None:
    session = make(peer=Limits(256, control=2))
    for _ in range(3):
        session.open(TARGET)
    assert [frame.type for frame in said(session)] == [FrameType.OPEN] * 2
    Remote(session).says(Credit(0, 1, 3))
    assert [frame.type for frame in said(session)] == [FrameType.OPEN]


def test_the_memory_of_a_session_may_change() -> None:
    session, _ = opened(Settings(memory=MIB), limit=2**40)
    session.ready(1)

    def send() -> int:
        sent = 0
        while (turn := session.pick()) is not None:
            session.send(1, bytes(turn[1]), lane=1)
            sent += turn[1]
        return sent

    assert send() < 3 * MIB
    session.share(32 * MIB)
    assert 8 * MIB < send() < 33 * MIB

"""What a session refuses: from its peer, and from its own side."""

from __future__ import annotations

import pytest

from tests.support.sessions import ID, TARGET, Remote, fault, make, opened
from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.wire.codec import MAX_STREAMS
from tunnel.wire.codes import Code
from tunnel.wire.control_channel import CROWDED
from tunnel.wire.events import (
    StreamRequested,
    StreamReset,
)
from tunnel.wire.frames import (
    Credit,
    Delivered,
    Fin,
    Frame,
    GoAway,
    Limits,
    Open,
    Opened,
    Ping,
    Refused,
    Reset,
    Resumed,
)
from tunnel.wire.session import Settings

# What the peer may not do.


@pytest.mark.parametrize("number", [2, 4, 2**32 - 2])
def test_a_stream_of_our_own_parity(number: int) -> None:
    assert fault(Remote(make(initiator=False)).says, Open(number, 1, TARGET)) is Code.STREAM_STATE


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_number_that_was_used_or_passed_over(number: int) -> None:
    session = make(initiator=False)
    peer = Remote(session)
    peer.says(Open(5, 1, TARGET))
    session.refuse(5, Code.NONE, "")
    assert fault(peer.says, Open(number, 1, TARGET)) is Code.STREAM_STATE


def test_more_streams_than_we_allow() -> None:
    session = make(Settings(Limits(streams=2, control=64)), initiator=False)
    peer = Remote(session)
    peer.says(Open(1, 1, TARGET), Open(3, 1, TARGET))
    session.refuse(1, Code.NONE, "")
    peer.says(Open(5, 1, TARGET))
    assert fault(peer.says, Open(7, 1, TARGET)) is Code.STREAM_LIMIT


def test_streams_without_acknowledging_our_answers() -> None:
    """Each REFUSED has to be kept until it is acknowledged."""
    session = make(peer=Limits(256, 16), initiator=False)
    peer = Remote(session)
    with pytest.raises(ProtocolError, match="does not acknowledge answers") as caught:  # noqa: PT012  raised after some
        for number in range(1, 4 * CROWDED, 2):
            peer.says(Open(number, 1, TARGET))
            session.refuse(number, Code.TARGET_FORBIDDEN, "no")
            session.control()
    assert caught.value.code is Code.FLOW_CONTROL
    assert len(session._control._waiting) + len(session._control._kept) <= CROWDED


@pytest.mark.parametrize(
    "frame",
    [
        Opened(9, 1),
        Refused(9, Code.NONE, ""),
        Fin(9, 0),
        Delivered(9, 0),
        Reset(9, Code.NONE, ""),
        Credit(9, 0, 1),
    ],
    ids=lambda frame: type(frame).__name__,
)
@pytest.mark.parametrize("initiator", [True, False])
def test_a_frame_for_a_stream_that_was_never_opened(frame: Frame, initiator: bool) -> None:
    session = make(initiator=initiator)
    assert fault(Remote(session).says, frame) is Code.STREAM_STATE
    assert fault(session.data, 9, 0, range(1)) is Code.STREAM_STATE


@pytest.mark.parametrize(
    "frame", [Fin(1, 0), Delivered(1, 0), Credit(1, 0, 1)], ids=lambda f: type(f).__name__
)
def test_a_frame_for_a_stream_that_is_not_opened_yet(frame: Frame) -> None:
    opening = make()
    opening.open(TARGET)
    assert fault(Remote(opening).says, frame) is Code.STREAM_STATE
    dialling = make(initiator=False)
    peer = Remote(dialling)
    peer.says(Open(1, 1, TARGET))
    assert fault(peer.says, frame) is Code.STREAM_STATE


@pytest.mark.parametrize("frame", [Opened(1, 5), Refused(1, Code.NONE, ""), Delivered(1, 0)])
def test_an_unsolicited_answer(frame: Frame) -> None:
    _, peer = opened()
    assert fault(peer.says, frame) is Code.STREAM_STATE


def test_our_own_request_cannot_be_answered_by_its_opener() -> None:
    session = make(initiator=False)
    peer = Remote(session)
    peer.says(Open(1, 1, TARGET))
    assert fault(peer.says, Opened(1, 1)) is Code.STREAM_STATE


@pytest.mark.parametrize(
    "credit", [Credit(1, 61, 200), Credit(1, 50, 49), Credit(0, 2, 1000), Credit(0, 1, 0)]
)
def test_credit_for_what_was_never_sent(credit: Credit) -> None:
    session, peer = opened(limit=100)
    session.send(1, range(60), lane=1)
    assert fault(peer.says, credit) is Code.FLOW_CONTROL


def test_credit_that_goes_backwards_changes_nothing() -> None:
    session, peer = opened(limit=100)
    session.send(1, range(60), lane=1)
    peer.says(Credit(1, 50, 150), Credit(1, 20, 120))
    session.ready(1)
    assert (session.kept, session.pick()) == (10, (1, 90))


def test_control_frames_outside_their_window() -> None:
    session = make(Settings(Limits(256, control=4)))
    session.open(TARGET)
    assert fault(session.receive, Opened(1, 5), 4) is Code.FLOW_CONTROL
    assert fault(session.receive, Opened(1, 5), 2**64 - 1) is Code.FLOW_CONTROL


def test_control_frames_are_processed_in_order_and_once() -> None:
    session = make(initiator=False)
    assert list(session.receive(Reset(1, Code.NONE, ""), 1)) == []
    assert list(session.receive(Open(1, 5, TARGET), 0)) == [
        StreamRequested(1, TARGET),
        StreamReset(1, Code.NONE, ""),
    ]
    assert list(session.receive(Open(1, 5, TARGET), 0)) == [], "a copy from a lost lane"


@pytest.mark.parametrize(
    "frame", [Ping(1), GoAway(Code.NONE, ""), Resumed(ID, 2, 1, 0, 1, ())], ids=lambda f: type(f).__name__
)
def test_lane_frames_are_no_session_frames(frame: Frame) -> None:
    assert fault(make().receive, frame, 0) is Code.PROTOCOL


def test_no_number_of_early_pieces_ends_an_honest_session() -> None:
    """One of two lanes is stalled, and single bytes continue on the other, as far as the windows allow."""
    session, _ = opened(Settings(window=200_000), count=2)
    for number in (1, 3):
        for offset in range(1, 200_000, 2):
            assert session.data(number, offset, b"x") == []
        session.data(number, 1, bytes(199_999))
        pieces = session.data(number, 0, b"y")
        assert sum(map(len, pieces)) == 200_000


# What our own side may not do.


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.accept(9),
        lambda s: s.refuse(9, Code.NONE, ""),
        lambda s: s.reset(9, Code.NONE, ""),
        lambda s: s.finish(9),
        lambda s: s.ready(9),
        lambda s: s.send(9, range(1), 1),
        lambda s: s.delivered(9, 1, 0.0),
        lambda s: s.accept(1),
        lambda s: s.refuse(1, Code.NONE, ""),
        lambda s: s.send(1, range(101), 1),
        lambda s: s.send(1, range(0), 1),
        lambda s: s.delivered(1, 1, 0.0),
        lambda s: [s.finish(1), s.finish(1)],
    ],
)
def test_invalid_calls(act: object) -> None:
    session, _ = opened(limit=100)
    assert callable(act)
    with pytest.raises(MisuseError):
        act(session)


def test_no_more_streams_than_the_peer_allows() -> None:
    session = make(peer=Limits(streams=2, control=64))
    session.open(TARGET)
    session.open(TARGET)
    with pytest.raises(RefusedError, match="the peer allows 2 streams"):
        session.open(TARGET)
    session.reset(1, Code.NONE, "")
    assert session.open(TARGET) == 5


def test_no_more_streams_than_one_resume_can_name() -> None:
    session = make(peer=Limits(streams=2**32 - 1, control=2**32 - 1))
    for _ in range(MAX_STREAMS):
        session.open(TARGET)
    with pytest.raises(RefusedError, match=f"allows {MAX_STREAMS} streams"):
        session.open(TARGET)


def test_no_stream_for_a_peer_that_acknowledges_nothing() -> None:
    session = make(peer=Limits(256, 16))
    with pytest.raises(RefusedError, match="the peer acknowledges control frames too slowly"):  # noqa: PT012  raised after some
        for _ in range(CROWDED):
            session.reset(session.open(TARGET), Code.NONE, "")

"""A session whose lanes are lost, added and replaced: positions, and what is sent again."""

from __future__ import annotations

import pytest

from tests.support.sessions import ID, TARGET, WINDOW, Remote, fault, make, opened, said, span
from tunnel.units import MIB
from tunnel.wire.codes import HEADER_SIZE, Code
from tunnel.wire.frames import Credit, Open, Opened, Position, Replace, Resumed
from tunnel.wire.session import Settings
from tunnel.wire.stream import KEPT_COST
from tunnel.wire.window import KEEP_FLOOR


def resumed(received: int = 1, limit: int = 1025, *positions: Position, epoch: int = 2) -> Resumed:
    return Resumed(ID, epoch, epoch - 1, received, limit, positions)


def test_our_positions() -> None:
    session, peer = opened()
    peer.says(Open(2, 50, "unix:/x"))
    session.data(1, 0, range(100))
    session.delivered(1, 40, now=0.0)
    claim = session.recovery.resume(2, 1)
    assert (claim.session, claim.epoch, claim.replaces) == (ID, 2, 1)
    assert (claim.control_received, claim.control_limit) == (2, 1026)
    assert claim.positions == (Position(1, 100, 40, 40 + WINDOW), Position(2, 0, 0, WINDOW))
    answer = session.recovery.resumed(2, 1)
    assert isinstance(answer, Resumed)
    assert answer.positions == claim.positions


def test_credit_in_positions_that_may_be_lost_is_still_due() -> None:
    session, peer = opened()
    peer.says(Open(2, 50, "unix:/x"))
    session.data(1, 0, range(100))
    session.delivered(1, 40, now=0.0)
    session.recovery.resume(2, 0)
    session.flush_credits()
    assert [frame for frame in said(session) if isinstance(frame, Credit)] == [
        Credit(0, 2, 1026),
        Credit(1, 40, 40 + WINDOW),
    ]


def test_what_was_lost_is_sent_again() -> None:
    session, _ = opened()
    session.open("unix:/x")
    session.control()  # lost
    for size in (30, 30):
        session.send(1, range(size), lane=1)
    session.recovery.lost(1)
    session.recovery.rejoin(resumed(1, 1025, Position(1, 40, 20, 20 + WINDOW)))
    assert said(session) == [Open(3, WINDOW, "unix:/x")]
    assert [span(session.recovery.next(2)), span(session.recovery.next(2))] == [(1, 40, 60), None]
    assert session.kept == 40


def test_credit_that_was_lost_comes_with_the_positions() -> None:
    session, _ = opened(limit=100)
    session.ready(1)
    session.send(1, range(100), lane=1)
    assert session.pick() is None
    session.recovery.lost(1)
    session.recovery.rejoin(resumed(1, 1025, Position(1, 100, 100, 150)))
    assert session.pick() == (1, 50)


def test_a_stream_that_the_positions_do_not_name_is_replayed_whole() -> None:
    """The peer took them before our OPEN, or its answer to it, was received on another lane."""
    session, _ = opened()
    session.recovery.attach(2)
    session.send(1, range(30), lane=1)
    session.recovery.lost(1)
    session.recovery.rejoin(resumed(1, 1025, epoch=3))
    assert span(session.recovery.next(3)) == (1, 0, 30)


def test_positions_of_streams_that_are_gone_are_ignored() -> None:
    session, _ = opened()
    session.recovery.lost(1)
    session.recovery.rejoin(
        resumed(1, 1025, Position(7, 9, 9, 9), Position(2, 1, 1, 1), Position(0, 5, 5, 5))
    )
    assert session.recovery.next(2) is None


def test_with_a_second_lane_nothing_waits_for_a_replacement() -> None:
    session, _ = opened()
    session.recovery.attach(2)
    session.data(1, 0, range(2 * MIB))
    session.delivered(1, 2 * MIB, now=0.0)
    session.open("unix:/x")
    session.send(1, range(30), lane=1)
    session.send(1, range(30), lane=2)
    session.control()  # on lane 1
    session.recovery.lost(1)
    assert said(session) == [
        Open(1, WINDOW, TARGET),
        Open(3, WINDOW, "unix:/x"),
        Credit(0, 1, 1025),
        Credit(1, 2 * MIB, 2 * MIB + WINDOW),
    ]
    assert [span(session.recovery.next(2)), span(session.recovery.next(2))] == [(1, 0, 30), None]


def test_a_lane_whose_resumed_was_lost() -> None:
    """RESUMED was lost, so the initiator sends RESUME again; lane 2 failed with what we had sent on it."""
    session = make(initiator=False)
    peer = Remote(session)
    peer.says(Open(1, 100, TARGET))
    session.accept(1)
    session.recovery.lost(1)
    session.recovery.rejoin(resumed(0, 1024))
    session.send(1, range(30), lane=2)
    session.control()
    session.recovery.rejoin(resumed(0, 1024, epoch=3))
    assert session.recovery.next(3) is None, "lane 2 counts as up"
    session.recovery.lost(2)
    assert span(session.recovery.next(3)) == (1, 0, 30)
    assert said(session) == [Opened(1, WINDOW), Credit(0, 1, 1025)]


@pytest.mark.parametrize(
    "claim",
    [
        resumed(2, 1025),
        resumed(1, 0),
        resumed(2**64 - 1, 2**64 - 1),
        resumed(1, 1025, Position(1, 31, 0, 100)),
        resumed(1, 1025, Position(1, 10, 11, 100)),
        resumed(1, 1025, Position(1, 2**64 - 1, 2**64 - 1, 2**64 - 1)),
    ],
)
def test_impossible_positions(claim: Resumed) -> None:
    session, _ = opened()
    session.send(1, range(30), lane=1)
    session.recovery.lost(1)
    assert fault(session.recovery.rejoin, claim) is Code.FLOW_CONTROL


def test_a_huge_limit_is_bounded_by_our_own_memory() -> None:
    session, _ = opened(Settings(memory=MIB), limit=2**64 - 1)
    session.recovery.lost(1)
    session.recovery.rejoin(resumed(1, 2**64 - 1, Position(1, 0, 0, 2**64 - 1)))
    session.ready(1)
    while (turn := session.pick()) is not None:
        session.send(1, range(turn[1]), lane=2)
    stream = session._streams[1]
    assert stream.cost == session.kept + stream.frames * KEPT_COST == KEEP_FLOOR + MIB * 3 // 4


def test_only_data_after_a_gap_is_copied() -> None:
    session, _ = opened()
    assert [p.payload for p in session.data(1, 0, range(10))] == [range(10)]
    assert session.data(1, 20, range(5)) == []
    assert [p.payload for p in session.data(1, 10, range(10))] == [range(10), bytes(range(5))]
    assert [p.payload for p in session.data(1, 25, range(5))] == [range(5)]


def test_header_and_payload_are_apart() -> None:
    session, _ = opened()
    outgoing = session.send(1, range(5), lane=1)
    assert len(outgoing.header) == HEADER_SIZE
    assert outgoing.piece.payload == range(5)


def test_the_first_frame_of_a_lane_that_replaces_one_that_is_up() -> None:
    session, _ = opened()
    claim = session.recovery.resume(2, 1, Replace)
    assert isinstance(claim, Replace)
    assert (claim.epoch, claim.replaces, claim.positions) == (2, 1, session.recovery.resume(2, 1).positions)


def test_while_a_lane_is_up_nothing_is_sent_again_for_another() -> None:
    session, _ = opened()
    session.open("unix:/x")
    session.control()
    session.send(1, range(30), lane=1)
    session.recovery.rejoin(resumed(0, 1024))
    assert said(session) == []
    assert session.recovery.next(2) is None


def test_what_a_retired_lane_carried_is_never_sent_again() -> None:
    session, _ = opened()
    session.recovery.attach(2)
    session.send(1, range(30), lane=1)
    session.send(1, range(20), lane=2)
    session.recovery.retired(1)
    assert session.recovery.next(2) is None
    session.recovery.attach(3)
    session.recovery.lost(2)
    assert [span(session.recovery.next(3)), span(session.recovery.next(3))] == [(1, 30, 50), None]
    session.recovery.lost(3)
    session.recovery.rejoin(resumed(1, 1025, epoch=4))
    assert [span(session.recovery.next(4)), span(session.recovery.next(4))] == [(1, 30, 50), None]
    assert session.kept == 50, "it is still kept until it is delivered"


def test_what_a_lost_lane_carried_is_sent_again_though_it_is_retired() -> None:
    session, _ = opened()
    session.recovery.attach(2)
    session.send(1, range(30), lane=1)
    session.recovery.lost(1)
    session.recovery.retired(1)
    assert span(session.recovery.next(2)) == (1, 0, 30), "it was lost before its RETIRED could arrive"


def test_credit_after_our_positions_is_lost_with_the_old_lane_and_sent_again() -> None:
    """Positions are taken while the old lane is up and in use: what it carries after that may be lost."""
    session, _ = opened()
    session.recovery.resume(2, 1)
    assert session.data(1, 0, b"x" * WINDOW)
    session.delivered(1, WINDOW, 0.0)
    assert said(session) == [Credit(1, WINDOW, 2 * WINDOW)]
    session.recovery.lost(1)
    session.recovery.rejoin(Resumed(session.id, 2, 1, 1, 1024, (Position(1, 0, 0, WINDOW),)))
    assert Credit(1, WINDOW, 2 * WINDOW) in said(session)

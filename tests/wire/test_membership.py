"""Which lanes make a session: collision of two dials, and the checks of RESUME, REPLACE and RESUMED."""

from __future__ import annotations

import pytest

from tests.support.ends import LaneEnd
from tests.support.wire import Network, frames
from tests.support.wire_host import SESSION, Host
from tunnel.errors import LaneLost, ProtocolError
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import GoAway, Limits, Ping, Replace, Resume, Resumed, Welcome
from tunnel.wire.session import Settings
from tunnel.wire.states import LaneState

SETTINGS = Settings(Limits(4, 64, lanes=3))
OTHER = b"?" * 16


@pytest.fixture
def network() -> Network:
    """Two hosts with a session, which has two of its three lanes."""
    made = Network(SETTINGS, SETTINGS)
    made.dial()
    made.carry_all()
    made.carry_all()
    return made


def claim(epoch: int, replaces: int, session: bytes = SESSION, kind: type[Resume] = Resume) -> Resume:
    return kind(session, epoch, replaces, 0, 1024, ())


def answer(epoch: int, replaces: int, session: bytes = SESSION) -> Resumed:
    return Resumed(session, epoch, replaces, 0, 1024, ())


def lane(state: LaneState = LaneState.DECIDING) -> LaneEnd:
    return LaneEnd(state)


# RESUME and REPLACE, at the acceptor.


@pytest.mark.parametrize(
    ("made", "replaced"),
    [(claim(3, 0), []), (claim(9, 1), [1]), (claim(3, 2), [2]), (claim(3, 2, kind=Replace), [])],
    ids=["an additional lane", "a lane that is up", "the newest", "rotation"],
)
def test_valid_claims(network: Network, made: Resume, replaced: list[int]) -> None:
    members = network.acceptor.members
    before, new = dict(members.lanes), lane()
    members.on_resume(new, made)
    assert [epoch for epoch, old in before.items() if old.ended] == replaced
    assert new in members.all
    assert new.epoch == made.epoch


@pytest.mark.parametrize(
    ("made", "features", "code"),
    [
        (claim(3, 2, OTHER), None, Code.SESSION_UNKNOWN),
        (claim(2, 1), None, Code.HANDSHAKE),
        (claim(3, 3), None, Code.HANDSHAKE),
        (claim(3, 4), None, Code.HANDSHAKE),
        (claim(2, 1, kind=Replace), None, Code.HANDSHAKE),
        (claim(3, 2), Feature.PROBE, Code.HANDSHAKE),
        (claim(3, 2, kind=Replace), Feature.RESUME, Code.HANDSHAKE),
    ],
)
def test_invalid_claims(network: Network, made: Resume, features: Feature | None, code: Code) -> None:
    members = network.acceptor.members
    members.features = members.features if features is None else features
    before = dict(members.lanes)
    with pytest.raises(ProtocolError) as caught:
        members.on_resume(lane(), made)
    assert caught.value.code is code
    assert members.lanes == before


def test_more_lanes_than_agreed(network: Network) -> None:
    network.acceptor.members.on_resume(lane(), claim(3, 0))
    with pytest.raises(ProtocolError, match="RESUME for lane 4 of 3"):
        network.acceptor.members.on_resume(lane(), claim(4, 0))


def test_claim_comes_from_the_initiator_of_a_session(network: Network) -> None:
    for host in (network.initiator, Host(SETTINGS, initiator=False)):
        with pytest.raises(ProtocolError, match="has no such session with") as caught:
            host.members.on_resume(lane(), claim(3, 2))
        assert caught.value.code is Code.SESSION_UNKNOWN


def test_replacing_a_lane_drops_one_whose_answer_was_lost(network: Network) -> None:
    members = network.acceptor.members
    unanswered = lane()
    members.on_resume(unanswered, claim(3, 2))
    members.on_resume(lane(), claim(4, 2))
    assert unanswered.ended
    assert sorted(members.lanes) == [1, 4]


# RESUMED, at the initiator.


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (answer(3, 2, OTHER), Code.SESSION_UNKNOWN),
        (answer(4, 2), Code.HANDSHAKE),
        (answer(3, 0), Code.HANDSHAKE),
    ],
)
def test_answer_must_match_the_request(network: Network, given: Resumed, code: Code) -> None:
    network.cut(2, noticed=True)
    members = network.initiator.members
    assert members.lost_lanes == [2]
    asked = lane(LaneState.AWAIT_RESUMED)
    members.send_resume(asked)
    assert [
        (frame.epoch, frame.replaces) for frame in frames(bytes(asked.out)) if isinstance(frame, Resume)
    ] == [(3, 2)]
    with pytest.raises(ProtocolError) as caught:
        members.on_resumed(asked, given)
    assert caught.value.code is code
    members.on_resumed(asked, answer(3, 2))
    assert members.lost_lanes == []


def test_an_epoch_is_never_used_again(network: Network) -> None:
    """The acceptor may have attached the lane whose RESUMED was lost."""
    members = network.initiator.members
    for epoch in (3, 4, 5):
        asked = lane(LaneState.AWAIT_RESUMED)
        members.send_resume(asked)
        [frame] = frames(bytes(asked.out))
        assert isinstance(frame, Resume)
        assert frame.epoch == epoch


# Two dials at the same time.


def test_the_smaller_name_keeps_its_connection() -> None:
    a, b = Host(SETTINGS, initiator=True), Host(SETTINGS, initiator=False)  # hosta, hostb
    dials = {}
    for host in (a, b):
        host.members.send_hello(lane(LaneState.AWAIT_WELCOME), SESSION)
        dials[host] = host.members.offer
    incoming = {host: lane() for host in (a, b)}
    for host, peer in ((a, b), (b, a)):
        offer = dials[peer]
        assert offer is not None
        host.members.on_hello(incoming[host], offer)
    [refusal] = frames(bytes(incoming[a].out))
    assert refusal == GoAway(Code.COLLISION, "another connection with hosta is in use")
    assert a.members.session is None
    assert b.members.lanes == {1: incoming[b]}
    assert b.members.offer is None, "its own dial is withdrawn"


def test_an_answer_to_an_offer_that_was_withdrawn_ends_its_session(network: Network) -> None:
    members, late = network.initiator.members, lane(LaneState.AWAIT_WELCOME)
    limits = Limits(4, 64)
    members.on_welcome(late, Welcome(1, Feature.RESUME, OTHER, b"B" * 16, limits))
    ping, goaway = frames(bytes(late.out))
    assert isinstance(ping, Ping)
    assert isinstance(goaway, GoAway)
    assert goaway.code is Code.COLLISION
    assert members.live_session.id == SESSION


def test_one_lane_without_the_feature_to_add_more() -> None:
    fresh = Host(SETTINGS, initiator=True)
    fresh.members.send_hello(first := lane(LaneState.AWAIT_WELCOME), SESSION)
    fresh.members.on_welcome(first, Welcome(1, Feature.PROBE, SESSION, b"B" * 16, SETTINGS.limits))
    assert not fresh.members.lacks_lane
    assert not fresh.members.wants_lane


# The end.


def test_session_without_resuming_ends_with_its_last_lane(network: Network) -> None:
    members = network.acceptor.members
    members.features = Feature.PROBE
    first, second = members.lanes.values()
    members.on_lane_end(second, LaneLost("reset"))
    assert members.session is not None
    with pytest.raises(AssertionError, match="the session has ended: LINK_LOST"):
        members.on_lane_end(first, LaneLost("reset"))


def test_a_late_end_does_not_affect_a_later_session(network: Network) -> None:
    earlier = Network(SETTINGS, SETTINGS).initiator.members.live_session
    network.initiator.members.end(Code.LINK_LOST, "too late", earlier)
    assert network.initiator.members.session is not None

"""Another daemon with the peer's name: kept out while the old one is up, and remembered."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.ends import LaneEnd
from tests.support.wire import Network, frames
from tests.support.wire_host import SESSION, Host
from tunnel.wire.codes import Code
from tunnel.wire.duplicate_hosts import DuplicateOutcome
from tunnel.wire.frames import Frame, GoAway, Hello, Limits, Notice, Welcome
from tunnel.wire.negotiation import hello
from tunnel.wire.session import Settings
from tunnel.wire.states import LaneState

SETTINGS = Settings(Limits(4, 64))
CAUSE = "two hosts have the same name and certificate"
OFFER = hello(b"another session.", b"another instance", SETTINGS.limits)


@pytest.fixture
def host() -> Host:
    """The acceptor of a session with one lane, on which nothing is pending."""
    made = Network(SETTINGS, SETTINGS).acceptor
    made.members.lanes[1].out.clear()
    return made


def knock(host: Host, offer: Hello = OFFER) -> LaneEnd:
    lane = LaneEnd(LaneState.DECIDING)
    host.members.on_hello(lane, offer)
    return lane


def said(lane: LaneEnd) -> list[Frame]:
    return frames(bytes(lane.out))


def test_it_is_refused_if_the_old_daemon_answers_and_so_are_its_later_attempts(host: Host) -> None:
    lane = knock(host)
    assert host.members.holds(lane)
    host.members.duplicates.settle(DuplicateOutcome.IS_REFUSED)
    refusal = GoAway(Code.COLLISION, f"another daemon named hosta has this link, from 192.0.2.1: {CAUSE}")
    assert said(lane) == [refusal]
    assert said(knock(host)) == [refusal]
    assert host.checked is None
    [told] = said(host.members.lanes[1])
    assert isinstance(told, Notice)
    assert told.reason.startswith("another daemon named hosta has connected from 192.0.2.1 and was refused")
    assert host.members.live_session.id == SESSION


def test_only_one_is_checked_at_a_time(host: Host) -> None:
    first = knock(host)
    other = knock(host, dataclasses.replace(OFFER, instance=b"a third instance"))
    assert said(other) == [GoAway(Code.COLLISION, "another daemon named hosta is requesting this session")]
    assert host.members.holds(first)
    assert not host.members.holds(other)


def test_an_incoming_lane_that_ends_changes_nothing(host: Host) -> None:
    lane = knock(host)
    lane.ended = True
    host.members.duplicates.settle(DuplicateOutcome.IS_GONE)
    assert not host.members.holds(lane)
    assert said(lane) == said(host.members.lanes[1]) == []


def test_it_takes_over_if_the_old_daemon_does_not_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    monkeypatch.setattr(host, "ended", lambda code, reason: ends.append(f"{code.name}: {reason}"))
    [old] = host.members.lanes.values()
    lane = knock(host)
    host.members.duplicates.settle(DuplicateOutcome.TAKES_OVER)
    assert ends == ["COLLISION: hosta began a new session"]
    assert old.ended
    assert host.members.lanes == {1: lane}
    [answer] = said(lane)
    assert isinstance(answer, Welcome)
    assert host.members.peer_instance == OFFER.instance


def test_closing_the_link_closes_the_incoming_lane(host: Host) -> None:
    lane = knock(host)
    assert host.members.duplicates.dismiss(Code.NONE, "hostb is stopping") == [lane]
    assert said(lane) == [GoAway(Code.NONE, "hostb is stopping")]
    assert host.members.duplicates.dismiss(Code.NONE, "again") == []

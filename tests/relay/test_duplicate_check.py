"""HELLO of another daemon with the peer's verified name: a restarted peer, or a duplicate of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.links import (
    Pair,
    called_by,
    ending,
    exchange,
    goodbye,
    hurry,
    join,
    make_link,
    offered,
    pipes,
)
from tests.support.pipelane import PipeLane
from tests.support.waiting import turns, until
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link import Link, LinkState
from tunnel.wire.codec import encode
from tunnel.wire.codes import FEATURES, Code, Feature
from tunnel.wire.duplicate_hosts import MOST_REMEMBERED
from tunnel.wire.frames import GoAway, Notice

COPY = b"N" * 16
NEVER = 1e6
"""Seconds."""


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    joined = await Pair().up()
    yield joined
    joined.close()


def copy() -> Link:
    """Another daemon with hosta's name and certificate."""
    return make_link("hosta", "hostb", COPY)


def knock(link: Link, instance: bytes = COPY) -> tuple[PipeLane, PipeLane]:
    """A HELLO from hosta; both ends of its lane."""
    near = called_by(link)
    far = near.far
    assert far is not None
    near.say(offered(instance))
    return near, far


def deafen(pair: Pair) -> None:
    """Nothing that b sends on its lane arrives any more, and b does not notice."""
    pipes(pair.b)[1].far = None


def said_of_copies(link: Link) -> list[str]:
    return [each.reason for each in link.incidents if each.kind == "two daemons of one name"]


async def test_new_daemon_is_refused_while_the_old_one_answers(pair: Pair) -> None:
    caller, called = await pair.stream()
    second = copy()
    join(second, pair.b)
    await until(lambda: said_of_copies(pair.b))
    await turns()
    assert (second.session, pair.b.state, pair.a.state) == (None, LinkState.UP, LinkState.UP)
    [words] = said_of_copies(pair.b)
    assert "two daemons are named hosta" in words
    await exchange(caller, called)


async def test_refused_daemon_receives_the_reason(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    assert goodbye(far.said) is Code.COLLISION
    assert b"another daemon named hosta has this link, from " in far.said


async def test_each_side_of_a_link_keeps_the_old_daemon(pair: Pair) -> None:
    """Also the one that began the session: the duplicate dials it."""
    _, far = knock(pair.a)
    await until(far.gone.is_set)
    assert goodbye(far.said) is Code.COLLISION
    assert said_of_copies(pair.a)
    assert pair.a.state is LinkState.UP


async def test_restarted_peer_is_linked_immediately_if_its_old_lane_is_closed(pair: Pair) -> None:
    caller, called = await pair.stream()
    restarted = make_link("hosta", "hostb", COPY)
    pair.lane.abort()
    join(restarted, pair.b)
    await until(lambda: restarted.lanes, "for the new session")
    assert await ending(called) == "reset"
    assert not said_of_copies(pair.b)
    caller.close()
    restarted.end(Code.NONE, "")


async def test_restarted_peer_is_linked_when_its_old_lane_does_not_answer(pair: Pair) -> None:
    hurry(pair.b, duplicate=0.05)
    caller, called = await pair.stream()
    deafen(pair)
    restarted = make_link("hosta", "hostb", COPY)
    join(restarted, pair.b)
    await until(lambda: restarted.lanes, "for the new session")
    assert await ending(called) == "reset"
    assert ("link down", "hosta began a new session") in [(i.kind, i.reason) for i in pair.b.incidents]
    assert not said_of_copies(pair.b)
    caller.close()
    restarted.end(Code.NONE, "")


async def test_loss_of_the_old_lane_ends_the_check_immediately(pair: Pair) -> None:
    """PING is answered by a reset: the host has rebooted."""
    hurry(pair.b, duplicate=NEVER)
    deafen(pair)
    restarted = make_link("hosta", "hostb", COPY)
    join(restarted, pair.b)
    await turns()
    assert not restarted.lanes
    pipes(pair.b)[1].cut()
    await until(lambda: restarted.lanes, "for the new session")
    restarted.end(Code.NONE, "")


async def test_end_of_the_old_session_ends_the_check_immediately(pair: Pair) -> None:
    hurry(pair.b, duplicate=NEVER)
    deafen(pair)
    restarted = make_link("hosta", "hostb", COPY)
    join(restarted, pair.b)
    await turns()
    pipes(pair.b)[1].receive(encode(GoAway(Code.NONE, "hosta is stopping")))
    await until(lambda: restarted.lanes, "for the new session")
    restarted.end(Code.NONE, "")


async def test_replacement_of_the_old_lane_counts_as_an_answer(pair: Pair) -> None:
    deafen(pair)
    pair.lane.far = None
    _, far = knock(pair.b)
    await turns()
    pair.lane.cut()
    await until(lambda: pair.a.state is LinkState.RESUMING)
    await pair.resume()
    await until(far.gone.is_set)
    assert goodbye(far.said) is Code.COLLISION
    assert pair.b.resumes == 1


async def test_duplicate_stays_refused_while_the_session_has_no_lane(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    pair.lane.cut()
    await until(lambda: pair.a.state is pair.b.state is LinkState.RESUMING)
    _, again = knock(pair.b)
    await until(again.gone.is_set)
    assert goodbye(again.said) is Code.COLLISION
    await pair.resume()
    assert pair.b.resumes == 1
    assert len(said_of_copies(pair.b)) == 1


async def test_duplicate_may_have_the_link_after_the_session_has_ended(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    pair.b.end(Code.LINK_LOST, "no lane resumed")
    await until(lambda: pair.a.session is None)
    second = copy()
    join(second, pair.b)
    await until(lambda: second.lanes)
    second.end(Code.NONE, "")


async def test_loss_of_the_incoming_lane_changes_nothing(pair: Pair) -> None:
    deafen(pair)
    near, far = knock(pair.b)
    await turns()
    near.cut()
    await turns()
    assert far.ended
    assert not said_of_copies(pair.b)
    assert pair.b.state is LinkState.UP
    second, other = knock(pair.b)
    await turns()
    assert not other.ended, "the next one is being checked"
    second.abort()


async def test_one_incoming_lane_at_a_time_is_checked(pair: Pair) -> None:
    deafen(pair)
    near, far = knock(pair.b)
    await turns()
    _, other = knock(pair.b, b"M" * 16)
    await until(other.gone.is_set)
    assert goodbye(other.said) is Code.COLLISION
    assert not far.ended
    near.abort()


async def test_closing_the_link_during_a_check_ends_both(pair: Pair) -> None:
    deafen(pair)
    _, far = knock(pair.b)
    await turns()
    await pair.b.close(Code.NONE, "hostb is stopping")
    assert goodbye(far.said) is Code.NONE
    await turns()
    assert pair.b.session is None


async def test_link_holds_the_lane_during_the_check(pair: Pair) -> None:
    """So that it is not aborted as one of too many lanes without a link."""
    deafen(pair)
    near, far = knock(pair.b)
    await turns()
    assert pair.b.holds(far)
    near.abort()
    await turns()
    assert not pair.b.holds(far)


async def test_number_of_remembered_duplicates_is_bounded(pair: Pair) -> None:
    for number in range(2 * MOST_REMEMBERED):
        _, far = knock(pair.b, number.to_bytes(16))
        await until(far.gone.is_set)
    assert len(pair.b.members.duplicates._refused) == MOST_REMEMBERED
    assert pair.b.state is LinkState.UP


async def test_daemon_that_is_kept_is_notified_of_the_other_one(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    await until(lambda: pair.a.incidents)
    [told] = [each.reason for each in pair.a.incidents if each.kind == "told by the peer"]
    assert told.startswith("hostb reports: another daemon named hosta has connected from ")
    assert pair.a.state is pair.b.state is LinkState.UP


async def test_daemon_of_an_older_version_is_not_notified(pair: Pair) -> None:
    pair.b.members.features = FEATURES ^ Feature.NOTICE
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    await turns()
    assert not pair.a.incidents
    assert pair.a.state is LinkState.UP


async def test_notices_of_a_peer_evict_no_other_incident(pair: Pair) -> None:
    pair.a.note(IncidentKind.LANE_LOST, "look at me")
    for number in range(1000):
        pair.lane.receive(encode(Notice(Code.COLLISION, f"number {number}")))
    assert "look at me" in [each.reason for each in pair.a.incidents]
    assert len(pair.a.incidents) < 20

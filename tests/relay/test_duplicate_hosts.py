"""A HELLO of another daemon that proves the peer's name: has the peer restarted, or is it a copy of it?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.links import Pair, called_by, ending, exchange, goodbye, join, make_link, offered, pipes
from tests.support.pipelane import PipeLane
from tests.support.waiting import turns, until
from tunnel.relay import duplicate_hosts as module
from tunnel.relay.link import Link, LinkState
from tunnel.wire.codec import encode
from tunnel.wire.codes import FEATURES, Code, Feature
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
    """Nothing that b says on its lane arrives any more, and nothing tells b so."""
    pipes(pair.b)[1].far = None


def said_of_copies(link: Link) -> list[str]:
    return [each.reason for each in link.incidents if each.what == "two daemons of one name"]


async def test_while_the_old_daemon_answers_the_newcomer_is_refused(pair: Pair) -> None:
    caller, called = await pair.stream()
    second = copy()
    join(second, pair.b)
    await until(lambda: said_of_copies(pair.b))
    await turns()
    assert (second.session, pair.b.state, pair.a.state) == (None, LinkState.UP, LinkState.UP)
    [words] = said_of_copies(pair.b)
    assert "two daemons call themselves hosta" in words
    await exchange(caller, called)


async def test_the_newcomer_hears_why(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    assert goodbye(far.said) is Code.COLLISION
    assert b"another daemon that calls itself hosta has this link, from " in far.said


async def test_each_side_of_a_link_keeps_the_old_daemon(pair: Pair) -> None:
    """Also the one that began the session: the copy dials it."""
    _, far = knock(pair.a)
    await until(far.gone.is_set)
    assert goodbye(far.said) is Code.COLLISION
    assert said_of_copies(pair.a)
    assert pair.a.state is LinkState.UP


async def test_a_peer_that_restarted_is_linked_at_once_when_its_old_lane_is_closed(pair: Pair) -> None:
    caller, called = await pair.stream()
    restarted = make_link("hosta", "hostb", COPY)
    pair.lane.abort()
    join(restarted, pair.b)
    await until(lambda: restarted.lanes, "for the new session")
    assert await ending(called) == "reset"
    assert not said_of_copies(pair.b)
    caller.close()
    restarted.end(Code.NONE, "")


async def test_a_peer_that_restarted_is_linked_when_its_old_lane_does_not_answer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.05)
    caller, called = await pair.stream()
    deafen(pair)
    restarted = make_link("hosta", "hostb", COPY)
    join(restarted, pair.b)
    await until(lambda: restarted.lanes, "for the new session")
    assert await ending(called) == "reset"
    assert ("link down", "hosta started anew") in [(i.what, i.reason) for i in pair.b.incidents]
    assert not said_of_copies(pair.b)
    caller.close()
    restarted.end(Code.NONE, "")


async def test_an_old_lane_that_is_lost_meanwhile_decides_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reset comes when it is asked: the host has booted again."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", NEVER)
    deafen(pair)
    restarted = make_link("hosta", "hostb", COPY)
    join(restarted, pair.b)
    await turns()
    assert not restarted.lanes
    pipes(pair.b)[1].cut()
    await until(lambda: restarted.lanes, "for the new session")
    restarted.end(Code.NONE, "")


async def test_an_old_session_that_ends_meanwhile_decides_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", NEVER)
    deafen(pair)
    restarted = make_link("hosta", "hostb", COPY)
    join(restarted, pair.b)
    await turns()
    pipes(pair.b)[1].receive(encode(GoAway(Code.NONE, "hosta is stopping")))
    await until(lambda: restarted.lanes, "for the new session")
    restarted.end(Code.NONE, "")


async def test_a_lane_that_is_replaced_meanwhile_is_an_answer(pair: Pair) -> None:
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


async def test_a_copy_stays_refused_while_the_session_has_no_lane(pair: Pair) -> None:
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


async def test_a_copy_may_have_the_link_when_the_session_is_over(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    pair.b.end(Code.LINK_LOST, "no lane came back")
    await until(lambda: pair.a.session is None)
    second = copy()
    join(second, pair.b)
    await until(lambda: second.lanes)
    second.end(Code.NONE, "")


async def test_a_newcomer_that_goes_away_decides_nothing(pair: Pair) -> None:
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
    assert not other.ended, "the next one is judged"
    second.abort()


async def test_one_newcomer_at_a_time_is_judged(pair: Pair) -> None:
    deafen(pair)
    near, far = knock(pair.b)
    await turns()
    _, other = knock(pair.b, b"M" * 16)
    await until(other.gone.is_set)
    assert goodbye(other.said) is Code.COLLISION
    assert not far.ended
    near.abort()


async def test_a_link_that_is_closed_meanwhile_ends_both(pair: Pair) -> None:
    deafen(pair)
    _, far = knock(pair.b)
    await turns()
    await pair.b.close(Code.NONE, "hostb is stopping")
    assert goodbye(far.said) is Code.NONE
    await turns()
    assert pair.b.session is None


async def test_it_is_the_links_lane_while_it_is_judged(pair: Pair) -> None:
    """So that it is not ended as one of those that pile up."""
    deafen(pair)
    near, far = knock(pair.b)
    await turns()
    assert pair.b.holds(far)
    near.abort()
    await turns()
    assert not pair.b.holds(far)


async def test_what_is_remembered_of_copies_is_bounded(pair: Pair) -> None:
    for number in range(2 * module.MOST_REMEMBERED):
        _, far = knock(pair.b, number.to_bytes(16))
        await until(far.gone.is_set)
    assert len(pair.b._namesakes._refused) == module.MOST_REMEMBERED
    assert pair.b.state is LinkState.UP


async def test_the_daemon_that_is_kept_hears_of_the_other_one(pair: Pair) -> None:
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    await until(lambda: pair.a.incidents)
    [told] = [each.reason for each in pair.a.incidents if each.what == "told by the peer"]
    assert told.startswith("hostb says: another daemon that calls itself hosta has connected from ")
    assert pair.a.state is pair.b.state is LinkState.UP


async def test_nobody_tells_a_daemon_of_an_older_version(pair: Pair) -> None:
    pair.b.features = FEATURES ^ Feature.NOTICE
    _, far = knock(pair.b)
    await until(far.gone.is_set)
    await turns()
    assert not pair.a.incidents
    assert pair.a.state is LinkState.UP


async def test_what_a_peer_tells_pushes_nothing_else_out(pair: Pair) -> None:
    pair.a.note("lane lost", "look at me")
    for number in range(1000):
        pair.lane.receive(encode(Notice(Code.COLLISION, f"number {number}")))
    assert "look at me" in [each.reason for each in pair.a.incidents]
    assert len(pair.a.incidents) < 20

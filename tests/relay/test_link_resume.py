"""A link that loses its lane: resuming without loss of data, and what ends the session."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.links import (
    Pair,
    called_by,
    ending,
    exchange,
    goodbye,
    join,
    last,
    make_link,
    receive,
)
from tests.support.waiting import turns, until
from tunnel.errors import ProtocolError
from tunnel.relay.incidents import Incidents
from tunnel.relay.link import LinkState
from tunnel.wire.codes import Code
from tunnel.wire.frames import Limits, Position, Resume, Resumed
from tunnel.wire.session import Settings


async def test_lost_lane_is_replaced_and_nothing_is_missing(pair: Pair) -> None:
    caller, called = await pair.stream()
    await exchange(caller, called)
    pair.lane.cut()
    await until(lambda: pair.a.state is pair.b.state is LinkState.RESUMING, "for the loss")
    assert (pair.a.members.wants_lane, pair.b.members.wants_lane) == (True, False)
    caller.send(b"meanwhile")
    await pair.resume()
    assert await receive(called, 9) == b"meanwhile"
    assert (pair.a.resumes, pair.b.resumes) == (1, 1)
    assert last(pair.a) == last(pair.b) == ("link resumed", "lane 2 replaces lane 1")


async def test_loss_that_one_side_has_not_noticed(pair: Pair) -> None:
    caller, called = await pair.stream()
    old = pair.lane.far
    assert old is not None
    old.cut(noticed=False)
    await until(lambda: pair.a.members.wants_lane, "for the loss")
    assert pair.b.state is LinkState.UP
    called.send(b"into the void")
    await turns()
    await pair.resume()
    assert await receive(caller, 13) == b"into the void"
    assert old.aborted
    assert list(pair.b.lanes) == [2]
    await exchange(caller, called)


async def test_answer_that_is_lost_makes_another_attempt(pair: Pair) -> None:
    """The peer attached a lane whose RESUMED was lost: the next lane replaces that one as well."""
    caller, called = await pair.stream()
    pair.lane.cut()
    await until(lambda: pair.a.members.wants_lane, "for the loss")
    lost = join(pair.a, pair.b)
    assert lost.far is not None
    lost.far.far = None  # nothing that b sends is delivered
    await until(lambda: pair.b.lanes, "for the lane that a does not get")
    called.send(b"into the void")
    await turns()
    lost.far = None  # nor does b notice
    lost._lost("the test cut it")
    assert pair.a.members.wants_lane
    await pair.resume()
    assert await receive(caller, 13) == b"into the void"
    assert list(pair.a.lanes) == list(pair.b.lanes) == [3]
    await exchange(caller, called)


async def test_resume_of_another_session_is_refused(pair: Pair) -> None:
    pair.lane.cut()
    await turns()
    intruder = called_by(pair.b)
    assert intruder.far is not None
    far = intruder.far
    intruder.say(Resume(b"?" * 16, 2, 1, 0, 1024, ()))
    await turns()
    assert goodbye(far.said) is Code.SESSION_UNKNOWN
    assert pair.b.state is LinkState.RESUMING


@pytest.mark.parametrize("epoch", [0, 1])
async def test_resume_with_an_old_number_is_refused(pair: Pair, epoch: int) -> None:
    assert pair.b.session is not None
    intruder = called_by(pair.b)
    assert intruder.far is not None
    far = intruder.far
    intruder.say(Resume(pair.b.session.id, epoch, 1, 0, 1024, ()))
    await turns()
    assert goodbye(far.said) is Code.HANDSHAKE
    assert pair.b.state is LinkState.UP


async def test_only_the_initiator_resumes(pair: Pair) -> None:
    assert pair.a.session is not None
    intruder = called_by(pair.a)
    assert intruder.far is not None
    far = intruder.far
    intruder.say(Resume(pair.a.session.id, 2, 1, 0, 1024, ()))
    await turns()
    assert goodbye(far.said) is Code.SESSION_UNKNOWN


async def test_impossible_position_ends_the_session(pair: Pair) -> None:
    caller, called = await pair.stream()
    pair.lane.cut()
    await turns()
    assert pair.b.session is not None
    liar = called_by(pair.b)
    liar.say(Resume(pair.b.session.id, 2, 1, 1, 1024, (Position(1, 999, 999, 999),)))
    assert await ending(called) == "reset"
    assert pair.b.state is LinkState.DOWN
    assert "impossible position" in last(pair.b)[1]
    caller.close()


@pytest.mark.parametrize("field", ["session", "epoch", "replaces"])
async def test_mismatched_answer_is_rejected(pair: Pair, field: str) -> None:
    pair.lane.cut()
    await until(lambda: pair.a.members.wants_lane, "for the loss")
    assert pair.a.session is not None
    lane = join(pair.a, make_link("hostb", "hosta"))
    session = b"?" * 16 if field == "session" else pair.a.session.id
    epoch, replaces = 9 if field == "epoch" else 2, 0 if field == "replaces" else 1
    with pytest.raises(ProtocolError, match=r"RESUMED (for another session|does not match: lane .)"):
        pair.a.members.on_resumed(lane, Resumed(session, epoch, replaces, 0, 1, ()))
    assert pair.a.state is LinkState.RESUMING


@pytest.mark.parametrize("side", ["a", "b"])
async def test_resume_window_is_bounded(side: str) -> None:
    pair = await Pair(resume_window=0.1, resume_grace=0.2).up()
    caller, called = await pair.stream()
    lost = asyncio.get_running_loop().time()
    pair.lane.cut()
    assert await ending(caller if side == "a" else called) == "reset"
    waited = asyncio.get_running_loop().time() - lost
    assert waited > (0.08 if side == "a" else 0.28)  # the loop counts in milliseconds
    link = pair.a if side == "a" else pair.b
    assert last(link) == ("link down", "no lane resumed within 0.1 s")
    assert link.state is LinkState.DOWN
    pair.close()


@pytest.mark.parametrize("resumed", [True, False])
async def test_resume_timer_is_cancelled(pair: Pair, resumed: bool) -> None:
    """Else it would end the session, or the next one, after the lane was resumed."""
    pair.lane.cut()
    await until(lambda: pair.a.members.wants_lane and pair.b._give_up, "for the loss")
    timers = [link._give_up for link in (pair.a, pair.b)]
    if resumed:
        await pair.resume()
    else:
        pair.a.end(Code.NONE, "over")
        pair.b.end(Code.NONE, "over")
    assert all(timer is not None and timer.cancelled() for timer in timers)
    assert pair.a._give_up is pair.b._give_up is None


@pytest.mark.parametrize("lanes", [1, 2])
async def test_without_a_window_loss_of_the_last_lane_ends_the_session(lanes: int) -> None:
    pair = await Pair(resume_window=0, settings=Settings(Limits(256, 1024, lanes))).up()
    caller, called = await pair.stream()
    if lanes > 1:
        pair.lane, second = join(pair.a, pair.b), pair.lane
        await until(lambda: len(pair.a.lanes) == len(pair.b.lanes) == 2, "for the second lane")
        second.cut()
        await until(lambda: len(pair.a.lanes) == len(pair.b.lanes) == 1, "for the loss")
        await exchange(caller, called)
        for link in (pair.a, pair.b):
            link.incidents = Incidents()
    pair.lane.cut()
    assert [await ending(caller), await ending(called)] == ["reset", "reset"]
    assert pair.a.state is pair.b.state is LinkState.DOWN
    for link in (pair.a, pair.b):
        assert [incident.kind for incident in link.incidents] == ["link down"], "no lane was waited for"
    pair.close()

"""Replacing lanes that are up: nothing is lost or sent twice, also when lanes fail meanwhile."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from tests.support.clock import Clock
from tests.support.links import (
    Pair,
    ending,
    exchange,
    join,
    pipes,
    receive,
    rejoin,
)
from tests.support.pipelane import PipeLane
from tests.support.rotations import crosses, deafened, frames_of, of_rotation, rotated, soon
from tests.support.waiting import turns, until
from tunnel.relay.link import LinkState
from tunnel.units import MIB
from tunnel.wire.codes import Code
from tunnel.wire.frames import Retire, Retired
from tunnel.wire.rotation import PATIENCE

# A rotation.


async def test_a_lane_is_replaced_and_nothing_is_sent_twice(pair: Pair) -> None:
    caller, called = await pair.stream()
    near, far = pair.lane, pair.lane.far
    assert far is not None
    crossing = [
        asyncio.create_task(crosses(caller, called, 12 * MIB)),
        asyncio.create_task(crosses(called, caller, 12 * MIB)),
    ]
    await until(lambda: len(near.said) > 4 * MIB, "for bulk")
    new = await rotated(pair, 1)
    await asyncio.gather(*crossing)
    assert list(pair.a.lanes) == list(pair.b.lanes) == [2]
    assert frames_of(near.said)[1] + frames_of(new.said)[1] == 12 * MIB
    assert frames_of(new.said)[1] > MIB
    assert frames_of(far.said)[1] + frames_of(pipes(pair.b)[2].said)[1] == 12 * MIB
    assert of_rotation(near) == [Retire(), Retired()]
    assert of_rotation(far) == [Retired(), Retire()]


async def test_a_rotation_is_no_incident(pair: Pair) -> None:
    new = await rotated(pair, 1)
    for link in (pair.a, pair.b):
        assert link.state is LinkState.UP
        assert (link.resumes, list(link.incidents)) == (0, [])
        assert (link.rotations, link.last_rotation and link.last_rotation["lane"]) == (1, 1)
    assert pair.lane.gone.is_set()
    assert not pair.lane.aborted, "it was closed, not aborted"
    assert not new.gone.is_set()


async def test_rotations_follow_each_other(pair: Pair) -> None:
    caller, called = await pair.stream()
    for old in range(1, 20):
        await rotated(pair, old)
        await exchange(caller, called)
    assert (pair.a.rotations, pair.b.rotations) == (19, 19)


async def test_one_of_two_lanes_is_replaced(two_lanes: Pair) -> None:
    caller, called = await two_lanes.stream()
    await rotated(two_lanes, 1)
    assert sorted(two_lanes.a.lanes) == sorted(two_lanes.b.lanes) == [2, 3]
    await crosses(caller, called, 8 * MIB)


async def test_end_of_a_stream_may_be_in_flight(pair: Pair) -> None:
    caller, called = await pair.stream()
    for sock in (caller, called):
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
    await rotated(pair, 1)
    assert await receive(called, 10) == await receive(caller, 10) == b"last words"
    assert [await ending(sock) for sock in (caller, called)] == ["close", "close"]


async def test_the_acceptor_sends_on_the_new_lane_only_when_the_old_one_is_retired(pair: Pair) -> None:
    caller, called = await pair.stream()
    far = deafened(pair.lane)  # from now on a's data on the old lane stays in flight
    new = rejoin(pair.a, pair.b, 1)
    await until(lambda: 2 in pair.a.lanes, "for the new lane")
    called.send(b"on the old one")
    await turns()
    assert list(pair.b.lanes) == [1]
    assert frames_of(new.far.said)[1] == 0 if new.far else False
    assert await receive(caller, 14) == b"on the old one"
    caller.send(b"on the new one")
    assert await receive(called, 14) == b"on the new one"
    far.cut()
    await until(lambda: list(pair.b.lanes) == [2], "for the new lane to take over")
    called.send(b"at last")
    assert await receive(caller, 7) == b"at last"


async def test_the_end_of_the_session_ends_all_lanes(pair: Pair) -> None:
    far = deafened(pair.lane)
    new = rejoin(pair.a, pair.b, 1)
    await soon(lambda: pair.a.rotation.others and pair.b.rotation.others)
    lanes = [pair.lane, far, new, new.far]
    closing = [asyncio.create_task(link.close(Code.NONE, "enough")) for link in (pair.b, pair.a)]
    await asyncio.gather(*closing)
    assert all(lane is not None and lane.gone.is_set() for lane in lanes)
    assert pair.a.rotation.others == pair.b.rotation.others == []


# Failures.


async def test_old_lane_is_lost_while_retiring(pair: Pair) -> None:
    caller, called = await pair.stream()
    near, far = pair.lane, pair.lane.far
    assert far is not None
    near.far = None
    caller.send(b"lost with the old lane")
    await turns()
    rejoin(pair.a, pair.b, 1)
    await until(lambda: 2 in pair.a.lanes, "for the new lane")
    near.far = far
    near.cut()
    assert await receive(called, 22) == b"lost with the old lane"
    await until(lambda: list(pair.b.lanes) == [2], "for the new lane to take over")
    assert not pair.a.members.wants_lane
    assert pair.a.state is pair.b.state is LinkState.UP
    await exchange(caller, called)


async def test_the_old_lane_is_lost_before_the_answer(pair: Pair) -> None:
    caller, called = await pair.stream()
    new = rejoin(pair.a, pair.b, 1)
    pair.lane.cut(noticed=True)
    await until(lambda: pair.a.members.wants_lane and new.gone.is_set(), "for the loss")
    assert not pair.a.lanes
    caller.send(b"meanwhile")
    resumed = await pair.resume()
    assert resumed.epoch == 3
    assert await receive(called, 9) == b"meanwhile"
    assert list(pair.a.lanes) == list(pair.b.lanes) == [3]


async def test_loss_noticed_only_by_the_initiator_is_resumed_by_epoch(pair: Pair) -> None:
    caller, called = await pair.stream()
    far = pair.lane.far
    assert far is not None
    new = rejoin(pair.a, pair.b, 1)
    far.cut(noticed=False)
    await until(lambda: pair.a.members.wants_lane and new.gone.is_set(), "for the loss")
    called.send(b"into the void")
    await turns()
    await pair.resume()
    assert await receive(caller, 13) == b"into the void"
    assert far.aborted
    assert list(pair.b.lanes) == [3]
    await exchange(caller, called)


async def test_the_new_lane_is_lost_as_soon_as_it_took_over(pair: Pair) -> None:
    caller, called = await pair.stream()
    new = rejoin(pair.a, pair.b, 1)
    await until(lambda: 2 in pair.a.lanes, "for the new lane")
    new.cut()
    await until(lambda: pair.a.members.wants_lane, "for the loss")
    caller.send(b"meanwhile")
    await pair.resume()
    assert await receive(called, 9) == b"meanwhile"
    await until(lambda: list(pair.b.lanes) == [3], "for the lane that replaces it")
    await exchange(caller, called)


async def test_the_new_lane_is_lost_before_it_took_over(pair: Pair) -> None:
    caller, called = await pair.stream()
    new = rejoin(pair.a, pair.b, 1)
    await soon(lambda: pair.b.rotation.others)
    assert new.far is not None
    new.far.cut()
    await until(lambda: not pair.b.rotation.others, "for the loss")
    await turns()
    if pair.a.members.wants_lane:
        await pair.resume()
    await exchange(caller, called)
    assert pair.a.state is pair.b.state is LinkState.UP


async def test_an_answer_that_is_lost_makes_another_attempt(pair: Pair) -> None:
    caller, called = await pair.stream()
    lost = rejoin(pair.a, pair.b, 1)
    assert lost.far is not None
    lost.far.far = None  # nothing that b sends is delivered
    await soon(lambda: pair.b.rotation.others)
    [standby] = pair.b.rotation.others
    called.send(b"on the old one")
    assert await receive(caller, 14) == b"on the old one"
    await rotated(pair, 1)
    assert isinstance(standby, PipeLane)
    assert standby.aborted
    lost.abort()
    assert list(pair.a.lanes) == list(pair.b.lanes) == [3]
    await exchange(caller, called)


async def test_another_rotation_shows_that_the_lane_before_is_gone(pair: Pair) -> None:
    """The initiator lost the first lane while it was retiring; the acceptor has not noticed."""
    caller, called = await pair.stream()
    near, far = pair.lane, pair.lane.far
    assert far is not None
    near.far = None
    rejoin(pair.a, pair.b, 1)
    await until(lambda: 2 in pair.a.lanes, "for the new lane")
    far.far = None
    near._lost("the test cut it")
    await turns()
    called.send(b"into the void")
    await turns()
    await rotated(pair, 2)
    assert await receive(caller, 13) == b"into the void"
    assert far.aborted
    assert list(pair.a.lanes) == list(pair.b.lanes) == [3]


@pytest.mark.parametrize("side", ["a", "b"])
async def test_retiring_lane_is_aborted_after_a_timeout(pair: Pair, side: str) -> None:
    caller, called = await pair.stream()
    near, far = pair.lane, pair.lane.far
    assert far is not None
    link, leaving = (pair.a, near) if side == "a" else (pair.b, far)
    clock = link.rotation._clock = Clock(0.0)
    (near if side == "a" else far).far = None
    new = rejoin(pair.a, pair.b, 1)
    await until(lambda: leaving in link.rotation.others, "for the lane to be retired")
    clock.now = PATIENCE - 1
    link.rotation.tick(link.lanes[new.epoch])
    assert link.rotation.others == [leaving]
    clock.now = PATIENCE
    link.rotation.tick(link.lanes[new.epoch])
    assert leaving.aborted
    assert link.rotation.others == []
    far._lost("the other end was reset")
    await until(lambda: list(pair.b.lanes) == [2], "for the new lane to take over")
    await exchange(caller, called)


async def test_answer_to_an_abandoned_attempt_adds_no_lane(two_lanes: Pair) -> None:
    caller, called = await two_lanes.stream()
    late = rejoin(two_lanes.a, two_lanes.b, 1)
    two_lanes.a.rotation.attempt_ended()
    await until(late.gone.is_set, "for the new lane to be dropped")
    assert list(two_lanes.a.lanes) == list(two_lanes.b.lanes) == [1, 2]
    for _ in range(2):
        pipes(two_lanes.a)[min(two_lanes.a.lanes)].cut()
        await until(lambda: two_lanes.a.members.wants_lane, "for the loss")
        join(two_lanes.a, two_lanes.b)
        await until(lambda: len(two_lanes.a.lanes) == 2, "for the lane")
        await exchange(caller, called)


@pytest.mark.parametrize("seed", range(8))
async def test_lanes_may_be_replaced_and_cut_in_any_order(two_lanes: Pair, seed: int) -> None:
    caller, called = await two_lanes.stream()
    chance = random.Random(seed)
    for _ in range(60):
        ways = ((caller, called), (called, caller))
        crossing = [asyncio.create_task(crosses(*way, MIB)) for way in ways]
        await turns(chance.randrange(12))
        _disturb(two_lanes, chance)
        while not all(task.done() for task in crossing):
            if two_lanes.a.members.wants_lane:
                join(two_lanes.a, two_lanes.b)
            await turns(30)
        await asyncio.gather(*crossing)
    assert two_lanes.a.rotations > 5
    assert two_lanes.a.resumes > 10


def _disturb(two_lanes: Pair, chance: random.Random) -> None:
    """Begin to replace a lane, or cut one, maybe one that is being replaced or has just taken over."""
    if chance.random() < 0.6:
        two_lanes.a.rotation.rotate("the test wants it")
        if epoch := two_lanes.a.rotation.next_due():
            rejoin(two_lanes.a, two_lanes.b, epoch)
    elif two_lanes.a.lanes:
        lane = chance.choice(list(pipes(two_lanes.a).values()))
        if lane.far is not None and chance.random() < 0.3:
            lane.far.cut(noticed=False)  # only the initiator notices
        else:
            lane.cut()
        two_lanes.a.rotation.attempt_ended()  # as the rotator does when it is interrupted

"""A link with several lanes: as many as both sides allow, and no data is lost with a lane."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest

from tests.support.links import (
    TARGET,
    Pair,
    called_by,
    goodbye,
    join,
    last,
    make_link,
    offered,
    pipes,
    receive,
)
from tests.support.waiting import turns, until
from tunnel.lanes.lane import Lane
from tunnel.relay.link import LinkState
from tunnel.units import MIB
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Limits, Open, Reset, Resume
from tunnel.wire.session import Settings


def granting(lanes: int) -> Settings:
    return Settings(Limits(256, 1024, lanes))


def attached(lane: Lane) -> bool:
    return lane.epoch > 0


async def widen(pair: Pair) -> None:
    """Dial every lane that the link wants."""
    while pair.a.members.wants_lane:
        lane = join(pair.a, pair.b)
        await until(partial(attached, lane), "for another lane")
    await until(lambda: set(pair.b.lanes) == set(pair.a.lanes), "for the same lanes at both ends")


@pytest.fixture
async def wide() -> AsyncIterator[Pair]:
    """Links with three lanes: 1, 2 and 3."""
    pair = await Pair(settings=granting(3)).up()
    await widen(pair)
    yield pair
    pair.close()


async def crosses(source: socket.socket, sink: socket.socket, count: int) -> None:
    """Send more than the quantum of a lane, and check every byte of it."""
    content = (bytes(range(251)) * (count // 251 + 1))[:count]
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(source, content))
    assert await receive(sink, count) == content
    await sending


@pytest.mark.parametrize(("ours", "theirs", "lanes"), [(3, 3, 3), (3, 1, 1), (1, 3, 1), (2, 16, 2)])
async def test_lower_limit_of_lanes_applies(ours: int, theirs: int, lanes: int) -> None:
    pair = await Pair({"settings": granting(theirs)}, settings=granting(ours)).up()
    await widen(pair)
    assert (len(pair.a.lanes), len(pair.b.lanes)) == (lanes, lanes)
    assert (pair.a.resumes, pair.b.resumes) == (0, 0)
    pair.close()


async def test_without_the_feature_there_is_one_lane() -> None:
    b = make_link("hostb", "hosta", settings=granting(3))
    lane = called_by(b)
    lane.say(replace(offered(b"I" * 16), features=Feature.NONE, limits=Limits(16, 16, 3)))
    await until(lambda: b.lanes, "for the session")
    session, intruder = b.session, called_by(b)
    assert session is not None
    assert b.members._wanted == 1
    assert intruder.far is not None
    far = intruder.far
    for replaces in (0, 1):
        intruder.say(Resume(session.id, 2 + replaces, replaces, 0, 1024, ()))
    await turns()
    assert goodbye(far.said) is Code.HANDSHAKE
    assert last(b)[1].startswith("RESUME was not negotiated for this session")
    assert list(b.lanes) == [1]
    b.end(Code.NONE, "the test is over")


async def test_all_lanes_carry_one_stream(wide: Pair) -> None:
    caller, called = await wide.stream()
    await crosses(caller, called, 8 * MIB)
    assert min(len(lane.said) for lane in pipes(wide.a).values()) > MIB
    await crosses(called, caller, 8 * MIB)


@pytest.mark.parametrize("noticed", [True, False])
async def test_data_of_a_lost_lane_is_sent_again_on_the_others(wide: Pair, noticed: bool) -> None:
    caller, called = await wide.stream()
    caller.send(b"before")
    assert await receive(called, 6) == b"before"
    pipes(wide.a)[2].cut(noticed=noticed)
    await until(lambda: 2 not in wide.b.lanes, "for the loss")
    assert wide.b.state is LinkState.UP
    await crosses(called, caller, 4 * MIB)


async def test_each_lost_lane_is_replaced_by_its_epoch(wide: Pair) -> None:
    for epoch in (1, 3):
        pipes(wide.a)[epoch].cut()
    await until(lambda: list(wide.a.lanes) == list(wide.b.lanes) == [2], "for the losses")
    await widen(wide)
    assert sorted(wide.a.lanes) == sorted(wide.b.lanes) == [2, 4, 5]
    assert {lane.replaces for lane in wide.b.lanes.values()} == {0, 1, 3}
    assert (wide.a.resumes, wide.b.resumes) == (2, 2)


async def test_losing_all_lanes_is_survived(wide: Pair) -> None:
    caller, called = await wide.stream()
    for lane in list(pipes(wide.a).values()):
        lane.cut()
    await until(lambda: wide.a.state is wide.b.state is LinkState.RESUMING, "for the losses")
    caller.send(b"meanwhile")
    await widen(wide)
    assert await receive(called, 9) == b"meanwhile"
    assert len(wide.a.lanes) == len(wide.b.lanes) == 3


async def test_lanes_whose_loss_the_peer_has_not_noticed_are_replaced(wide: Pair) -> None:
    caller, called = await wide.stream()
    for epoch in (2, 3):
        far = pipes(wide.a)[epoch].far
        assert far is not None
        far.cut(noticed=False)  # only the initiator notices
    await until(lambda: list(wide.a.lanes) == [1], "for the losses")
    assert len(wide.b.lanes) == 3
    called.send(b"perhaps into the void")
    await turns()
    await widen(wide)
    assert sorted(wide.b.lanes) == [1, 4, 5]
    assert await receive(caller, 21) == b"perhaps into the void"


async def test_excess_lane_is_refused(wide: Pair) -> None:
    session = wide.b.session
    assert session is not None
    intruder = called_by(wide.b)
    far = intruder.far
    assert far is not None
    intruder.say(Resume(session.id, 9, 0, 0, 1024, ()))
    await turns()
    assert goodbye(far.said) is Code.HANDSHAKE
    assert last(wide.b)[1].startswith("RESUME for lane 4 of 3")
    assert sorted(wide.b.lanes) == [1, 2, 3]


async def test_goaway_on_one_lane_ends_them_all(wide: Pair) -> None:
    wide.b.end(Code.NONE, "enough")
    await until(lambda: wide.a.state is LinkState.DOWN, "for the end")
    assert last(wide.a)[0] == "link down"
    assert not wide.a.lanes


async def test_reordered_frames_are_applied_in_order(wide: Pair) -> None:
    """An OPEN that must be refused immediately, and its RESET, which arrived first over another lane."""
    wide.b.streams.draining = True
    for lane in pipes(wide.b).values():
        lane.far = None  # the peer never requested this: do not deliver the answer
    lane = pipes(wide.b)[1]
    for sequence, frame in ((1, Reset(1, Code.LOCAL_RESET, "changed its mind")), (0, Open(1, 1, TARGET))):
        lane.receive(encode(frame, sequence))
    await turns()
    assert wide.b.state is LinkState.UP
    assert wide.b.session is not None
    assert not wide.b.streams.pumps

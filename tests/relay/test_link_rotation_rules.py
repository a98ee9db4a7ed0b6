"""When a lane is replaced, requests of the acceptor, peers without the feature, and protocol errors."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.clock import Clock
from tests.support.links import (
    Pair,
    called_by,
    exchange,
    goodbye,
    join,
    last,
    pipes,
    rejoin,
)
from tests.support.rotations import crosses, deafened, frames_of, of_rotation, rotated, soon
from tests.support.waiting import turns, until
from tunnel.errors import LaneLost
from tunnel.relay.link import LinkState
from tunnel.units import MIB
from tunnel.wire.codes import Code, Feature, FrameType
from tunnel.wire.frames import GoAway, Replace, Retire, Retired, Rotate, RotationFrame
from tunnel.wire.rotation import ASKED_AGE, ASKED_RECORDS, KEY_LIMIT, RotationPlan

OLD_RELEASE = Feature.RESUME | Feature.PROBE

# When to replace.


async def test_lane_is_replaced_at_the_limit_of_records(pair: Pair) -> None:
    assert pair.a.rotation.next_due() == 0
    pair.lane._used(pair.a.plan.rotation.records)
    await until(pair.a.rotation.next_due, "for the lane to be selected")
    await rotated(pair, 1)
    told = pair.a.last_rotation
    assert told is not None
    assert told["reason"] == "4194304 records with one key"
    assert pair.a.rotation.next_due() == 0


@pytest.mark.parametrize("direction", ["records_sent", "records_received"])
async def test_records_that_no_batch_showed_count_as_well(
    pair: Pair, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.lane, direction, pair.a.plan.rotation.records - 1)
    pair.a.on_tick(pair.lane)
    assert pair.a.rotation.next_due() == 0
    monkeypatch.setattr(pair.lane, direction, pair.a.plan.rotation.records)
    pair.a.on_tick(pair.lane)
    assert pair.a.rotation.next_due() == 1


async def test_most_records_of_a_key_are_remembered(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.lane, "records_received", 5005)
    await rotated(pair, 1)
    assert (pair.a.rotation.most_records, pair.b.rotation.most_records) == (5005, 0)
    monkeypatch.setattr(pipes(pair.a)[2], "records_sent", 6006)
    pipes(pair.a)[2].cut()
    await until(lambda: pair.a.members.wants_lane, "for the loss")
    assert pair.a.rotation.most_records == 6006


async def test_lane_gets_the_limit_of_the_plan() -> None:
    pair = await Pair(rotation=RotationPlan(records=5000)).up()
    assert (pair.lane._mark, pipes(pair.b)[1]._mark) == (5000, 5000)
    await rotated(pair, 1)
    assert (pipes(pair.a)[2]._mark, pipes(pair.b)[2]._mark) == (5000, 5000)
    pair.close()


@pytest.mark.parametrize(("after", "due"), [(100.0, 1), (0.0, 0)])
async def test_lane_is_replaced_after_a_time(after: float, due: int) -> None:
    pair = await Pair(rotation=RotationPlan(after=after)).up()
    clock = pair.a.rotation._clock = Clock(0.0)
    clock.now = pair.lane.since + 99.9
    pair.a.on_tick(pair.lane)
    assert pair.a.rotation.next_due() == 0
    clock.now = pair.lane.since + 100.0
    pair.a.on_tick(pair.lane)
    assert pair.a.rotation.next_due() == due
    pair.close()


async def test_all_lanes_are_replaced_one_by_one(two_lanes: Pair) -> None:
    two_lanes.a.rotation.rotate("certificates renewed")
    assert two_lanes.a.rotation.next_due() == 1
    far = pipes(two_lanes.a)[1].far
    assert far is not None
    far.far = None  # b's RETIRED is not delivered
    rejoin(two_lanes.a, two_lanes.b, 1)
    await until(lambda: 3 in two_lanes.a.lanes, "for the new lane")
    assert two_lanes.a.rotation.next_due() == 0, "one is retiring"
    far._lost("the test cut it")
    two_lanes.a.rotation.others[0].abort()
    two_lanes.a.on_end(two_lanes.a.rotation.others[0], LaneLost("the test cut it"))
    assert two_lanes.a.rotation.next_due() == 2
    await until(lambda: 3 in two_lanes.b.lanes, "for the new lane")
    await rotated(two_lanes, 2)
    assert two_lanes.a.rotation.next_due() == 0
    assert two_lanes.a.last_rotation is not None
    assert two_lanes.a.last_rotation["reason"] == "certificates renewed"


async def test_lost_lanes_are_resumed_first(two_lanes: Pair) -> None:
    two_lanes.a.rotation.rotate("certificates renewed")
    pipes(two_lanes.a)[2].cut()
    await until(lambda: two_lanes.a.members.wants_lane, "for the loss")
    assert two_lanes.a.rotation.next_due() == 0
    join(two_lanes.a, two_lanes.b)
    await until(lambda: not two_lanes.a.members.wants_lane, "for another lane")
    assert two_lanes.a.rotation.next_due() == 1
    await rotated(two_lanes, 1)
    assert two_lanes.a.rotation.next_due() == 0, "the lane that replaced the lost one is new"


async def test_a_loss_interrupts_the_attempt(two_lanes: Pair) -> None:
    two_lanes.a.attempt = attempt = asyncio.create_task(asyncio.sleep(60))
    pipes(two_lanes.a)[2].cut()
    await until(attempt.done, "for the attempt to be cancelled")
    assert attempt.cancelled()


# Requests of the acceptor.


async def test_acceptor_repeats_its_request_until_the_lane_is_replaced(pair: Pair) -> None:
    pair.lane.since -= ASKED_AGE
    pair.b.rotation.rotate("certificates renewed")
    await until(pair.a.rotation.next_due, "for the request")
    for _ in range(2):
        pair.b.on_tick(pipes(pair.b)[1])
    await turns()
    assert of_rotation(pipes(pair.b)[1]) == [Rotate()] * 3
    assert pair.b.rotation.next_due() == 0, "the acceptor does not dial"
    await rotated(pair, 1)
    assert pair.a.last_rotation is not None
    assert pair.b.last_rotation is not None
    assert (pair.a.last_rotation["reason"], pair.b.last_rotation["reason"]) == (
        "requested by the peer",
        "certificates renewed",
    )
    pair.b.on_tick(pipes(pair.b)[2])
    assert of_rotation(pipes(pair.b)[2]) == []


async def test_young_lane_is_not_replaced_on_request(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a hostile peer could cause handshakes without end."""
    clock = pair.a.rotation._clock = Clock(0.0)
    clock.now = pair.lane.since
    for used, age, due in ((0, 0.0, 0), (ASKED_RECORDS - 1, ASKED_AGE - 0.1, 0), (ASKED_RECORDS, 0.0, 1)):
        clock.now = pair.lane.since + age
        monkeypatch.setattr(pair.lane, "records_received", used)
        pipes(pair.b)[1].say(Rotate())
        await turns()
        assert pair.a.rotation.next_due() == due
    assert list(pair.a.incidents) == []


async def test_request_for_a_lost_lane_is_dropped(pair: Pair) -> None:
    pair.lane.since -= ASKED_AGE
    pair.lane.cut()
    await until(lambda: pair.a.members.wants_lane, "for the loss")
    pair.b.rotation.rotate("certificates renewed")
    await pair.resume()
    assert pair.a.rotation.next_due() == 0


# A peer without the feature.


@pytest.fixture
async def old(pair: Pair) -> Pair:
    for link in (pair.a, pair.b):
        link.members.features = OLD_RELEASE
    return pair


@pytest.mark.parametrize(
    ("first", "window"), [("answer", 30.0), ("end of the old lane", 30.0), ("end of the old lane", 0.0)]
)
async def test_without_the_feature_a_lane_that_is_up_is_resumed(old: Pair, first: str, window: float) -> None:
    """Also without a resume window: the peer ends this lane because it accepted another."""
    old.a.plan = replace(old.a.plan, resume_window=window)
    caller, called = await old.stream()
    crossing = [
        asyncio.create_task(crosses(caller, called, 12 * MIB)),
        asyncio.create_task(crosses(called, caller, 12 * MIB)),
    ]
    await until(lambda: len(old.lane.said) > 4 * MIB, "for bulk")
    old.a.rotation.rotate("certificates renewed")
    new = rejoin(old.a, old.b, 1)
    if first == "end of the old lane":
        old.lane._lost("the peer ended it")
    await until(lambda: list(old.a.lanes) == list(old.b.lanes) == [2], "for the new lane")
    await asyncio.gather(*crossing)
    assert frames_of(new.said)[0][0].type is FrameType.RESUME
    assert (old.a.rotations, old.a.resumes, list(old.a.incidents)) == (1, 0, [])
    assert not old.a.members.wants_lane


async def test_without_the_feature_a_failed_attempt_may_lose_a_lane(old: Pair) -> None:
    """The peer has ended the old one, and its answer is lost: it is resumed like any lost lane."""
    caller, called = await old.stream()
    new = rejoin(old.a, old.b, 1)
    assert new.far is not None
    new.far.far = None
    await until(lambda: not old.a.lanes, "for the end of the old lane")
    wanted = [old.a.members.wants_lane]  # not yet: the answer may still come
    new.abort()
    old.a.rotation.attempt_ended()
    wanted.append(old.a.members.wants_lane)
    assert wanted == [False, True]
    await old.resume()
    await exchange(caller, called)


async def test_initiator_without_the_feature_is_an_incident(old: Pair) -> None:
    old.b.rotation.rotate("certificates renewed")
    what, reason = last(old.b)
    assert what == "lane not replaced"
    assert "hosta cannot replace it: it is the initiator" in reason
    assert "certificates renewed" in reason
    assert str(KEY_LIMIT) in reason
    assert of_rotation(pipes(old.b)[1]) == []
    old.b.on_tick(pipes(old.b)[1])
    assert len(old.b.incidents) == 1


# Protocol errors.


@pytest.mark.parametrize(
    ("side", "frame", "feature"),
    [
        ("a", Rotate(), True),
        ("b", Retire(), True),
        ("a", Retired(), True),
        ("b", Retired(), True),
        ("b", Rotate(), False),
        ("a", Retire(), False),
        ("b", Retired(), False),
    ],
)
async def test_frames_out_of_place_end_the_session(
    pair: Pair, side: str, frame: RotationFrame, feature: bool
) -> None:
    speaker, listener = (pair.a, pair.b) if side == "a" else (pair.b, pair.a)
    if not feature:
        listener.members.features = OLD_RELEASE
    pipes(speaker)[1].say(frame)
    await until(lambda: listener.state is LinkState.DOWN, "for the end")
    assert list(listener.incidents)[-1].kind == "link down"
    assert "[PROTOCOL]" in last(listener)[1]


async def test_retired_twice_ends_the_session(pair: Pair) -> None:
    far = pair.lane.far
    assert far is not None
    near = deafened(far)  # b's answers are not delivered
    rejoin(pair.a, pair.b, 1)
    await until(lambda: pair.a.rotation.others, "for the lane to be retired")
    far.far = near
    far.say(Retired(), Retired())
    await until(lambda: pair.a.state is LinkState.DOWN, "for the end")


async def test_replace_is_refused_without_the_feature(old: Pair) -> None:
    session = old.b.session
    assert session is not None
    intruder = called_by(old.b)
    far = intruder.far
    assert far is not None
    intruder.say(Replace(session.id, 2, 1, 0, 1024, ()))
    await turns()
    assert goodbye(far.said) is Code.HANDSHAKE
    assert list(old.b.lanes) == [1]


async def test_number_of_retiring_lanes_is_bounded(pair: Pair) -> None:
    """A peer that never sends RETIRED, and adds a lane each time."""
    session, made = pair.b.session, [pair.lane]
    assert session is not None
    assert pair.lane.far is not None
    pair.lane.far.far = None  # b's answers are ignored
    for epoch in range(2, 30):
        made[-1].say(Retire())
        await turns()
        made.append(called_by(pair.b))
        made[-1].say(session.recovery.resume(epoch, 0))
        await turns()
        assert list(pair.b.lanes) == [epoch]
    assert len(pair.b.rotation.others) == 1
    assert sum(not lane.gone.is_set() for lane in made[1:]) == 2


async def test_number_of_standby_lanes_is_bounded(pair: Pair) -> None:
    session = pair.b.session
    assert session is not None
    for epoch in range(2, 30):
        called_by(pair.b).say(session.recovery.resume(epoch, 1, Replace))
        await turns()
    assert len(pair.b.rotation.others) == 1
    assert list(pair.b.lanes) == [1]


async def test_impossible_positions_end_the_session_when_applied(pair: Pair) -> None:
    session = pair.b.session
    assert session is not None
    liar = called_by(pair.b)
    liar.say(replace(session.recovery.resume(2, 1, Replace), control_received=99))
    await soon(lambda: pair.b.rotation.others)
    pair.lane.say(Retire())
    await until(lambda: pair.b.state is LinkState.DOWN, "for the end")
    assert liar.gone.is_set()


async def test_a_standby_lane_that_is_refused_afterwards_ends_nothing(pair: Pair) -> None:
    session = pair.b.session
    assert session is not None
    lane = called_by(pair.b)
    lane.say(session.recovery.resume(2, 1, Replace))
    await soon(lambda: pair.b.rotation.others)
    lane.say(GoAway(Code.TIMEOUT, "no answer"))
    await until(lambda: not pair.b.rotation.others, "for its end")
    assert pair.b.state is LinkState.UP

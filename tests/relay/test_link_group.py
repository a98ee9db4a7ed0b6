"""All sessions with one peer, over real lanes, in several threads."""

from __future__ import annotations

import asyncio
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.groups import Side, Stage, identities, stage, staged, worker_of
from tests.support.lanes import Hosts
from tests.support.links import ending, hurry, receive
from tests.support.network import TlsPeer
from tests.support.relays import send, take
from tests.support.waiting import until
from tunnel.errors import RefusedError
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link import LinkState
from tunnel.relay.link_group import EveryLink
from tunnel.relay.workers import WorkerError
from tunnel.units import MIB
from tunnel.wire import negotiation
from tunnel.wire.codec import encode
from tunnel.wire.codes import FEATURES, Code, Feature
from tunnel.wire.frames import Frame, GoAway, Limits, Resume, Welcome
from tunnel.wire.negotiation import hello
from tunnel.wire.session import DEFAULT_LIMITS, Settings

__all__ = ["identities", "stage"]


async def crossed(caller: socket.socket, called: socket.socket) -> None:
    caller.send(b"there")
    assert await receive(called, 5) == b"there"
    called.send(b"back")
    assert await receive(caller, 4) == b"back"


def shared(side: Side, memory: int) -> bool:
    """Whether each session has ``memory``."""
    return {link.members._memory for link in side.group.links} == {memory}


async def die() -> None:
    raise SystemExit("a fault")


async def hang(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  this is what the test is about


# Distribution of streams.


async def test_streams_are_spread_over_the_workers_of_both_hosts(stage: Stage) -> None:
    target = stage.listen()
    streams = [await stage.stream(target) for _ in range(6)]
    assert stage.a.spread == [2, 2, 2]
    await until(lambda: stage.b.spread == [2, 2, 2], "for the other side")
    assert set(stage.a.ours) == set(stage.b.theirs) == {1, 2}
    for caller, called in streams:
        await crossed(caller, called)


async def test_every_byte_crosses_in_every_worker(stage: Stage) -> None:
    target = stage.listen()
    streams = [await stage.stream(target) for _ in range(3)]
    assert stage.a.spread == [1, 1, 1]
    work = [send(caller, 8 * MIB) for caller, _ in streams] + [take(called, 8 * MIB) for _, called in streams]
    await asyncio.gather(*work)


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (1, 1)])
async def test_with_one_worker_on_either_host_there_is_one_session(
    identities: Hosts, tmp: Path, counts: tuple[int, int]
) -> None:
    async with staged(identities, tmp, counts) as stage:
        target = stage.listen()
        for _ in range(3):
            await stage.stream(target)
        assert not stage.a.group.parallel
        assert not stage.a.ours
        assert not stage.b.theirs
        await until(lambda: stage.a.spread[0] == stage.b.spread[0] == 3, "for both sides")


async def test_the_lower_number_of_workers_counts(identities: Hosts, tmp: Path) -> None:
    async with staged(identities, tmp, (4, 2)) as stage:
        target = stage.listen()
        for _ in range(4):
            await stage.stream(target)
        assert set(stage.a.ours) == {1}
        await until(lambda: stage.b.spread == [2, 2], "for the other side")


# Failures.


async def test_additional_session_resumes_in_its_worker(stage: Stage) -> None:
    target = stage.listen()
    streams = [await stage.stream(target) for _ in range(2)]
    link = worker_of(stage.a, 1)
    work = [asyncio.create_task(send(caller, 32 * MIB)) for caller, _ in streams]
    for epoch in (1, 2):
        await until(partial(link.lanes.get, epoch), f"for lane {epoch}")
        await until(lambda: link.lanes[epoch].bytes_sent > MIB, "for bytes")  # noqa: B023  awaited at once
        link.post(link.lanes[epoch]._lost, "the test cut it")  # type: ignore[attr-defined]  # of each kind
    await asyncio.gather(*work, *(take(called, 32 * MIB) for _, called in streams))
    assert link.resumes == worker_of(stage.b, 1).resumes == 2
    assert stage.a.group.standing.resumes == 0


async def test_lanes_of_additional_sessions_are_replaced(stage: Stage) -> None:
    await stage.stream(stage.listen())
    target = stage.listen("second")
    caller, called = await stage.stream(target)
    link = worker_of(stage.a, 1)
    link.post(link.rotation.rotate, "the test asks for it")
    await until(lambda: link.rotations == 1, "for the rotation")
    await crossed(caller, called)


async def test_a_worker_that_ends_costs_its_own_streams_only(stage: Stage) -> None:
    """Other streams, even of the same migration, are not affected; it is reported."""
    target = stage.listen()
    streams = [await stage.stream(target) for _ in range(3)]
    with pytest.raises(WorkerError):
        await stage.a.workers.all[1].call(die)
    for end in streams[1]:
        assert await asyncio.wait_for(ending(end), 60) in {"reset", "close"}
    await crossed(*streams[0])
    await crossed(*streams[2])
    await until(lambda: stage.a.told, "for the report")
    assert stage.a.told[0][0] == "a worker has ended"
    assert "link down: worker 1 has ended, with an additional session" in stage.a.reasons()
    await until(lambda: len(stage.b.theirs) == 1, "for the other side")
    assert any("worker 1 on hosta has ended" in reason for reason in stage.b.reasons())
    later = await stage.stream(target)  # uses the remaining workers
    await crossed(*later)
    assert stage.a.workers.facts()[1] == {"worker": 1, "state": "ended", "sessions": 0, "streams": 0}


async def test_an_exception_in_one_worker_ends_one_session(stage: Stage) -> None:
    target = stage.listen()
    streams = [await stage.stream(target) for _ in range(3)]
    link = worker_of(stage.a, 2)

    def fail(lane: object, turn: int) -> None:
        raise ValueError("a fault")

    link.streams.send_next = fail  # type: ignore[assignment]
    loop = stage.a.workers.all[2].loop
    loop.call_soon_threadsafe(loop.set_exception_handler, lambda _, context: None)
    streams[2][0].send(b"x")
    assert await asyncio.wait_for(ending(streams[2][1]), 60) in {"reset", "close"}
    await crossed(*streams[0])
    await crossed(*streams[1])
    await until(lambda: 2 not in stage.a.ours, "for the end of that session")
    assert any("internal error on hosta" in reason for reason in stage.a.reasons())
    await crossed(*await stage.stream(target))
    assert not stage.a.told, "the worker itself has not failed"


async def test_restarted_peer_begins_its_sessions_again(stage: Stage) -> None:
    target = stage.listen()
    for _ in range(3):
        await stage.stream(target)
    before = dict(stage.b.theirs)
    for further in stage.a.ours.values():
        assert further.link is not None
        further.link.members.instance = b"another daemon.."
    stage.a.group._instance = stage.a.group.standing.members.instance = b"another daemon.."
    for side in (stage.a, stage.b):
        side.group.standing.end(Code.NONE, "the daemon ends")
    await until(
        lambda: stage.b.group.standing.members.peer_instance == b"another daemon..", "for the new one"
    )
    for number in (1, 2):
        further = stage.a.ours.pop(number)
        further.worker.send(further.end, Code.INTERNAL, "it was killed")
    await until(lambda: not stage.b.theirs, "for the end of them")
    for _ in range(3):
        await stage.stream(target)
    assert set(stage.b.theirs) == {1, 2}
    assert not set(stage.b.theirs.values()) & set(before.values())


# Limits, which are shared.


async def test_memory_is_divided_among_the_sessions(identities: Hosts, tmp: Path) -> None:
    async with staged(identities, tmp, settings=Settings(memory=120 * MIB)) as stage:
        assert stage.a.group.standing.members._memory == 120 * MIB
        target = stage.listen()
        for _ in range(3):
            await stage.stream(target)
        for side in (stage.a, stage.b):
            await until(partial(shared, side, 40 * MIB), "for the division")
            for link in side.group.links:
                assert link.session is not None
                assert link.session._registry.budget.total == 40 * MIB
        stage.a.group._own.end(stage.a.ours[2], "the test ends it")
        for side in (stage.a, stage.b):
            await until(partial(shared, side, 60 * MIB), "for the division")


async def test_streams_are_counted_over_all_sessions(identities: Hosts, tmp: Path) -> None:
    limits = Limits(4, DEFAULT_LIMITS.control)
    async with staged(identities, tmp, settings=Settings(limits)) as stage:
        target = stage.listen()
        streams = [await stage.stream(target) for _ in range(4)]
        assert (await stage.a.group.facts())["streams_vacant"] == 0
        waiting = asyncio.create_task(stage.stream(target))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await until(lambda: sum(stage.b.spread) == 4, "for the other side")
        for sock in streams[1]:
            sock.close()
        await crossed(*await waiting)


async def test_a_peer_that_opens_more_is_refused(identities: Hosts, tmp: Path) -> None:
    """It counts the streams of each session separately."""
    limits = Limits(2, DEFAULT_LIMITS.control)
    async with staged(identities, tmp, settings=Settings(limits)) as stage:
        target = stage.listen()
        for _ in range(2):
            await stage.stream(target)
        ours, caller = socket.socketpair()
        link = worker_of(stage.a, 1)
        link.post(link.streams.open, ours, target, 0)
        with caller:
            caller.setblocking(False)
            assert await asyncio.wait_for(ending(caller), 60) in {"reset", "close"}
        assert any("hostb allows 2 streams at once" in reason for reason in stage.a.reasons())


# For the daemon.


async def test_facts_are_those_of_one_link(stage: Stage) -> None:
    target = stage.listen()
    for _ in range(4):
        await stage.stream(target)
    facts = await stage.a.group.facts()
    assert [part["session"] for part in facts["sessions"]] == ["standing", "ours 1", "ours 2"]
    assert [part["worker"] for part in facts["sessions"]] == [0, 1, 2]
    assert [lane["session"] for lane in facts["lanes"]] == ["standing", "ours 1", "ours 2"]
    assert len(facts["streams"]) == facts["streams_opened"] == 4
    assert facts["streams_vacant"] == DEFAULT_LIMITS.streams - 4
    theirs = await stage.b.group.facts()
    assert [part["session"] for part in theirs["sessions"]] == ["standing", "theirs 1", "theirs 2"]
    stage.a.workers.all[2].answers = False  # an unresponsive worker is skipped
    assert [part["worker"] for part in (await stage.a.group.facts())["sessions"]] == [0, 1]


async def test_a_session_that_has_ended_is_still_counted(stage: Stage) -> None:
    target = stage.listen()
    for _ in range(2):
        await stage.stream(target)
    link = worker_of(stage.a, 1)
    link.post(link.note, IncidentKind.TOLD_BY_PEER, "an operator should know")
    link.post(link.end, Code.INTERNAL, "the test ends it")
    await until(lambda: not stage.a.ours, "for its end")
    facts = await stage.a.group.facts()
    assert facts["streams_opened"] == 2
    assert "an operator should know" in [incident["reason"] for incident in facts["incidents"]]


async def test_a_group_that_drains_refuses_in_every_session(stage: Stage) -> None:
    target = stage.listen()
    for _ in range(3):
        await stage.stream(target)
    stage.b.group.drain()
    for _ in range(3):
        with pytest.raises((AssertionError, TimeoutError)):
            await crossed(*await asyncio.wait_for(stage.stream(target), 1))
    stage.a.group.drain()
    with pytest.raises(RefusedError, match="this host is stopping"):
        await stage.ask(target)


async def test_the_links_of_all_sessions(stage: Stage) -> None:
    every = EveryLink([stage.a.group])
    assert list(every) == [stage.a.group.standing]
    await stage.stream(stage.listen())
    await stage.stream(stage.listen("second"))
    assert len(every) == 2
    assert worker_of(stage.a, 1) in every
    assert all(link.state is LinkState.UP for link in every)


async def test_closing_a_group_ends_all_its_sessions(stage: Stage) -> None:
    target = stage.listen()
    streams = [await stage.stream(target) for _ in range(3)]
    await stage.a.group.close(Code.NONE, "over")
    for caller, called in streams:
        assert await ending(caller) in {"reset", "close"}
        assert await ending(called) in {"reset", "close"}
    await until(lambda: not stage.b.theirs, "for the other side")
    assert not stage.a.group.parallel


async def test_unresponsive_worker_does_not_block_closing(stage: Stage) -> None:
    hurry(stage.a.group.standing, close=0.2)
    target = stage.listen()
    for _ in range(3):
        await stage.stream(target)
    hanging = asyncio.create_task(stage.a.workers.all[1].call(hang, 2.0))
    await stage.a.group.close(Code.NONE, "over")
    assert not hanging.done()
    await hanging


# Sessions that the peer begins.


async def answered(stage: Stage, identities: Hosts, *frames: Frame) -> TlsPeer:
    """Send these first frames on a lane of hosta to host b's port."""
    sock = socket.create_connection(("127.0.0.1", stage.reception._listener._sock.getsockname()[1]))
    sock.setblocking(False)
    peer = await TlsPeer.connect(sock, identities.a, dialing=True)
    await peer.send(b"".join(map(encode, frames)))
    await peer.read_until(lambda: peer.all(GoAway) or peer.all(Welcome))
    sock.close()
    return peer


def offered(instance: bytes, number: int) -> Frame:
    return hello(b"S" * 16, instance, Limits(0, 1024), 3, number)


@pytest.mark.parametrize(
    ("instance", "number", "reason"),
    [
        (b"another".ljust(16), 1, "no primary session with that daemon"),
        (b"hosta".ljust(16), 3, "session number 3, the limit is 3 sessions"),
    ],
)
async def test_session_that_must_not_be_begun(
    stage: Stage, identities: Hosts, instance: bytes, number: int, reason: str
) -> None:
    peer = await answered(stage, identities, offered(instance, number))
    [goaway] = peer.all(GoAway)
    assert isinstance(goaway, GoAway)
    assert goaway.code is Code.COLLISION
    assert reason in goaway.reason
    assert not stage.b.theirs


async def test_a_session_is_begun_once(stage: Stage, identities: Hosts) -> None:
    target = stage.listen()
    for _ in range(2):
        await stage.stream(target)
    peer = await answered(stage, identities, offered(b"hosta".ljust(16), 1))
    [goaway] = peer.all(GoAway)
    assert "another connection has that session" in str(goaway)


async def test_session_in_an_unresponsive_worker_is_replaced(stage: Stage, identities: Hosts) -> None:
    """The peer dropped its lanes long ago, which was not noticed here."""
    target = stage.listen()
    for _ in range(2):
        await stage.stream(target)
    before = stage.b.theirs[1]
    before.worker.answers = False
    peer = await answered(stage, identities, offered(b"hosta".ljust(16), 1))
    assert peer.all(Welcome)
    assert stage.b.theirs[1].worker is not before.worker
    before.worker.answers = True


async def test_a_session_whose_lane_does_not_last_leaves_room(stage: Stage, identities: Hosts) -> None:
    peer = await answered(stage, identities, offered(b"hosta".ljust(16), 2))
    assert peer.all(Welcome)
    again = await answered(stage, identities, offered(b"hosta".ljust(16), 2))
    assert again.all(Welcome) or again.all(GoAway)


async def test_unknown_session_is_not_resumed(stage: Stage, identities: Hosts) -> None:
    await stage.stream(stage.listen())
    peer = await answered(stage, identities, Resume(b"?" * 16, 2, 1, 0, 1, ()))
    [goaway] = peer.all(GoAway)
    assert isinstance(goaway, GoAway)
    assert goaway.code is Code.SESSION_UNKNOWN


async def test_lanes_are_expected_for_every_existing_session(stage: Stage) -> None:
    group = stage.b.group
    assert not group.lacks_lane, "additional sessions are optional"
    target = stage.listen()
    for _ in range(3):
        await stage.stream(target)
    assert not group.lacks_lane
    members: Any = worker_of(stage.b, 1).members
    lanes, members.lanes = members.lanes, {}
    lacks = group.lacks_lane
    members.lanes = lanes
    assert lacks


async def test_a_peer_of_an_older_release_has_one_session(
    identities: Hosts, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negotiation, "FEATURES", FEATURES & ~Feature.WORKERS)
    async with staged(identities, tmp) as stage:
        target = stage.listen()
        for _ in range(3):
            await crossed(*await stage.stream(target))
        assert not stage.a.group.parallel
        assert stage.a.spread == [3, 0, 0]

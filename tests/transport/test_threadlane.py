"""What a lane's thread adds; that it keeps the contract of lanes, ``test_lane_conformance`` shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from tests.support.driver import content
from tests.support.lanes import Hosts, Pair, gone, joined, socketlane
from tests.support.waiting import until
from tunnel.errors import LaneError, ProtocolError
from tunnel.transport.lane import Lane, LaneKind
from tunnel.transport.threadlane import FRAME_COST, ThreadLane
from tunnel.wire.codes import MIB, Code
from tunnel.wire.frames import Fin, Frame
from tunnel.wire.stream import Outgoing


@pytest.fixture
async def pair(hosts: Hosts) -> AsyncIterator[Pair]:
    async with joined(hosts, ("threads", "threads")) as pair:
        yield pair


def lane_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane with ")]


async def test_each_lane_has_a_thread_for_as_long_as_it_lives(pair: Pair) -> None:
    assert sorted(lane_threads())[-2:] == ["lane with hosta", "lane with hostb"]
    for host in (pair.a, pair.b):
        await gone(host.lane)
    await until(lambda: not lane_threads(), "for the threads to end")


async def test_the_handler_is_called_in_the_owners_thread_alone(pair: Pair) -> None:
    threads = set()

    def note(frame: Frame) -> None:
        threads.add(threading.current_thread())

    pair.b.on_any_frame = note
    [number] = await pair.opened()
    pair.a.send(number, 4 * MIB)
    pair.b.send(number, 4 * MIB)
    await pair.closed([number])
    assert threads == {threading.current_thread()}


async def test_what_the_handler_raises_ends_the_lane_on_both_sides(pair: Pair) -> None:
    def refuse(frame: Frame) -> None:
        raise ProtocolError(Code.FLOW_CONTROL, "the test does not like it")

    [number] = await pair.opened()
    pair.b.on_any_frame = refuse
    pair.a.send(number, 1)
    await until(lambda: pair.a.ends and pair.b.ends, "for both ends")
    assert "the test does not like it" in str(pair.a.ends[0])
    assert not any(isinstance(frame, Fin) for frame in pair.a.frames)


async def test_a_frame_that_cannot_be_sent_ends_the_lane(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(outgoing: Outgoing) -> None:
        raise OSError("no such pipe")

    [number] = await pair.opened()
    monkeypatch.setattr(socketlane(pair.a.lane), "send", fail)
    pair.a.send(number, 1)
    await until(lambda: pair.a.ends and pair.b.ends, "for both ends")
    assert "a fault of the daemon: OSError('no such pipe')" in str(pair.a.ends[0])
    assert pair.b.sinks[number].received == 0


async def test_memory_is_not_used_again_before_the_owner_is_through_with_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane reads nothing until a batch was taken; then it goes on by itself."""
    lane, paused, take = pair.b.lane, set(), pair.b.on_batch_end
    assert isinstance(lane, ThreadLane)

    def watch(owner: Lane) -> None:
        paused.add(lane._inner._paused)
        take(owner)
        paused.add(lane._inner._paused)

    monkeypatch.setattr(pair.b, "on_batch_end", watch)
    [number] = await pair.opened()
    pair.a.send(number, 3 * MIB)
    pair.b.send(number, 0)
    await pair.closed([number])
    assert paused == {True}


async def test_frames_ahead_of_the_thread_are_bounded_however_small(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the thread has no time; counted by payload alone there could be a million."""
    [number] = await pair.opened()
    lane = pair.a.lane
    assert isinstance(lane, ThreadLane)
    lane._worker.called = True  # so that the thread is not told
    frames = 0
    while lane.room:
        lane.send(pair.a.session.send(number, content(number, frames, 1, initiator=True), 1))
        frames += 1
    assert frames <= lane.batch // FRAME_COST + 1
    lane._worker.called = False
    lane.flush()
    await until(lambda: lane.room)
    await until(lambda: pair.b.sinks[number].received == frames)


async def test_a_lane_that_cannot_be_made_leaves_no_loop_behind() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def fail(loop: asyncio.AbstractEventLoop) -> None:
        loops.append(loop)
        raise OSError("no such thing")

    with pytest.raises(OSError, match="no such thing"):
        ThreadLane(fail)  # type: ignore[arg-type]  # it raises before it could return anything
    assert loops[0].is_closed()


async def test_without_a_thread_there_is_no_lane_and_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def make(loop: asyncio.AbstractEventLoop) -> SimpleNamespace:
        loops.append(loop)
        return SimpleNamespace(
            kind=LaneKind.USERSPACE, peer="hostb", local="", remote="192.0.2.2:7", since=0.0
        )

    def exhausted(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", exhausted)
    with pytest.raises(LaneError, match=r"hostb \(192.0.2.2:7\): can't start new thread; raise TasksMax="):
        ThreadLane(make)  # type: ignore[arg-type]  # what a lane says of itself is enough here
    assert loops[0].is_closed()


async def test_a_lane_whose_owner_is_gone_ends_without_a_word(hosts: Hosts) -> None:
    """As when a daemon's loop ends with an error: the thread has nobody to tell, and goes."""

    def own_and_leave() -> None:
        async def leave() -> None:
            async with joined(hosts, ("threads", "threads")) as pair:
                await pair.opened()

        asyncio.run(leave())

    await asyncio.to_thread(own_and_leave)
    await until(lambda: not lane_threads(), "for the threads to end")

"""The rotator: it replaces selected lanes, keeps the old one if that fails, and yields to a lost lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import pytest

from tests.support.links import Pair, exchange, last, pipes, rejoin
from tests.support.waiting import until
from tunnel.errors import LaneError, UnreachableError
from tunnel.relay import rotator as module
from tunnel.relay.dialer import Dialer
from tunnel.relay.link import LinkState
from tunnel.relay.rotator import Rotator
from tunnel.wire.codes import Code


@dataclass
class Dials:
    """Replaces a dialer: each attempt calls the next of ``script``, and then succeeds."""

    pair: Pair
    script: list[Callable[[int], None]] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    hang: bool = False

    async def replace(self, old: int) -> None:
        self.attempts.append(old)
        if self.hang:
            await asyncio.get_running_loop().create_future()
        if self.script:
            self.script.pop(0)(old)
            return
        lane = rejoin(self.pair.a, self.pair.b, old)
        await until(lambda: lane.epoch)


@pytest.fixture
async def dials(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dials]:
    """A running rotator of link a, with short pauses."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.04)
    dialer = Dials(pair)
    task = asyncio.create_task(Rotator(pair.a, cast("Dialer", dialer)).run())
    yield dialer
    assert not task.done(), task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def failing(error: Exception) -> Callable[[int], None]:
    def fail(old: int) -> None:
        raise error

    return fail


async def test_only_selected_lanes_are_replaced(dials: Dials) -> None:
    await exchange(*await dials.pair.stream())
    assert dials.attempts == []


async def test_selected_lane_is_replaced(dials: Dials) -> None:
    for old in (1, 2, 3):
        dials.pair.a.rotation.rotate("the test wants it")
        await until(lambda old=old: list(dials.pair.b.lanes) == [old + 1], "for the rotation")  # type: ignore[misc]
    assert dials.attempts == [1, 2, 3]
    await until(lambda: dials.pair.a.attempt is None, "for the end of the attempt")


async def test_failures_leave_the_old_lane_and_are_reported_once(
    dials: Dials, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def count(seconds: float) -> None:
        if seconds >= 0.01:
            pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", count)
    a = dials.pair.a
    closed = UnreachableError("hostb at 192.0.2.2 port 16515: No route to host")
    dials.script = [failing(closed)] * 4 + [failing(LaneError("the handshake failed"))]
    a.rotation.rotate("certificates renewed")
    await until(lambda: 2 in dials.pair.b.lanes, "for the rotation")
    assert dials.attempts == [1] * 6
    assert [each.kind for each in a.incidents] == ["lane not replaced"] * 2
    assert "No route to host; lane 1 stays in use, next attempt in 0.01 s" in a.incidents[0].reason
    assert "the handshake failed" in last(a)[1]
    assert pauses[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]
    assert a.resumes == 0


async def test_the_old_lane_carries_while_attempts_fail(dials: Dials) -> None:
    dials.script = [failing(OSError(113, "No route to host"))] * 1000
    streams = await dials.pair.stream()
    dials.pair.a.rotation.rotate("the test wants it")
    await until(lambda: len(dials.attempts) > 3, "for some attempts")
    await exchange(*streams)
    assert list(dials.pair.a.lanes) == [1]
    assert dials.pair.a.state is LinkState.UP


async def test_bug_is_reported_and_does_not_end_the_rotator(dials: Dials) -> None:
    dials.script = [failing(ZeroDivisionError("division by zero"))]
    dials.pair.a.rotation.rotate("the test wants it")
    await until(lambda: 2 in dials.pair.b.lanes, "for the rotation")
    assert "internal error: ZeroDivisionError" in last(dials.pair.a)[1]


async def test_a_lost_lane_comes_first(dials: Dials) -> None:
    dials.hang = True
    dials.pair.a.rotation.rotate("the test wants it")
    await until(lambda: dials.attempts, "for the attempt")
    pipes(dials.pair.a)[1].cut()
    await until(lambda: dials.pair.a.attempt is None, "for its end")
    assert [each.kind for each in dials.pair.a.incidents] == ["lane lost"]
    await dials.pair.resume()
    await exchange(*await dials.pair.stream())
    assert dials.attempts == [1]


async def test_the_end_of_the_session_ends_the_attempt(dials: Dials) -> None:
    dials.hang = True
    dials.pair.a.rotation.rotate("the test wants it")
    await until(lambda: dials.attempts, "for the attempt")
    dials.pair.a.end(Code.NONE, "enough")
    await until(lambda: dials.pair.a.attempt is None, "for its end")

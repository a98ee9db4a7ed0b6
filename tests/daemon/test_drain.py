"""Draining: what it waits for, how long, and what it logs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from tests.support.links import Pair, requests_of
from tests.support.waiting import turns, until
from tunnel.daemon import drain as module
from tunnel.daemon.drain import Drain
from tunnel.relay.link import Link
from tunnel.relay.pump import Pump
from tunnel.wire.codes import Code

Events = list[MutableMapping[str, Any]]


@pytest.fixture
def said() -> Iterator[Events]:
    with structlog.testing.capture_logs() as events:
        yield events


class Draining:
    """A drain of host a's link, as a task."""

    def __init__(self, pair: Pair, timeout: float = 0.0) -> None:
        self.hurry = asyncio.Event()
        self.told: list[str] = []
        self.task = asyncio.create_task(Drain([pair.a], timeout, self.hurry, self.told.append).run())

    async def over(self) -> None:
        await asyncio.wait_for(self.task, 60)


def reports(said: Events) -> list[tuple[str, int, str]]:
    return [(each["event"], each["streams"], each["of"]) for each in said if "of" in each]


WAITING = "stopping: waiting for streams to end"


async def test_without_streams_drain_ends_immediately_and_logs_nothing(said: Events) -> None:
    pair = await Pair().up()
    await Draining(pair).over()
    assert reports(said) == []
    pair.close()


async def test_streams_are_logged_by_peer_and_target_and_waited_for(said: Events) -> None:
    pair = await Pair().up()
    for _ in range(2):
        await pair.stream(pair.a)
    await pair.stream(pair.b)
    draining = Draining(pair)
    await until(lambda: reports(said), "for the line")
    target = "tcp:127.0.0.1:49152"
    assert reports(said) == [(WAITING, 3, f"to hostb: {target} (2), from hostb: {target} (1)")]
    assert draining.told == [f"{WAITING} (3)"]
    [line] = [each for each in said if "of" in each]
    assert (line["log_level"], line["timeout"]) == ("warning", "none")
    assert not draining.task.done()
    pair.a.end(Code.NONE, "they have all ended")
    await draining.over()
    assert len(reports(said)) == 1
    pair.close()


async def test_active_streams_are_logged_periodically(said: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_INTERVAL", 0.0)
    monkeypatch.setattr(module, "_STEP", 0.001)
    pair = await Pair().up()
    await pair.stream()
    draining = Draining(pair)
    await until(lambda: len(reports(said)) >= 3, "for more lines")
    assert {event for event, _, _ in reports(said)[1:]} == {"still waiting for streams to end"}
    draining.hurry.set()
    await draining.over()
    pair.close()


async def test_signal_ends_the_drain_and_is_logged(said: Events) -> None:
    pair = await Pair().up()
    await pair.stream()
    draining = Draining(pair)
    await until(lambda: reports(said), "for the line")
    draining.hurry.set()
    await draining.over()
    assert [event for event, _, _ in reports(said)] == [WAITING, "stopping at once: streams are reset"]
    pair.close()


async def test_timeout_ends_the_drain_and_is_logged(said: Events) -> None:
    pair = await Pair().up()
    await pair.stream()
    await Draining(pair, 0.01).over()
    events = [each for each in said if "of" in each]
    assert events[0]["timeout"] == "0.01 seconds"
    assert events[1]["event"] == "host.drain_timeout is over: streams are reset"
    pair.close()


async def test_of_many_kinds_some_are_logged_by_name(said: Events) -> None:
    pair = await Pair().up()
    for number in range(10):
        here, _ = pair.local()
        pair.a.streams.open(here, f"tcp:127.0.0.1:{number + 1}")
    draining = Draining(pair)
    await until(lambda: reports(said), "for the line")
    [(_, count, of)] = reports(said)
    assert count == 10
    assert of.endswith(", and 2 more")
    draining.hurry.set()
    await draining.over()
    pair.close()


async def test_stream_with_a_pending_connect_is_waited_for() -> None:
    pair = await Pair().up()
    requests_of(pair.a).dialling = True
    draining = Draining(pair)
    await turns()
    assert not draining.task.done()
    requests_of(pair.a).dialling = False
    await draining.over()
    pair.close()


async def test_a_table_of_streams_may_grow_while_it_is_read(
    said: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker modifies its table on its own thread."""
    pair = await Pair().up()
    for _ in range(2):
        await pair.stream(pair.a)
    pumps, kind_of = pair.a.streams.pumps, module._kind
    known = dict(pumps)

    def meanwhile(link: Link, pump: Pump) -> str:
        pumps[1000 + len(pumps)] = pump
        return kind_of(link, pump)

    monkeypatch.setattr(module, "_kind", meanwhile)
    draining = Draining(pair)
    await until(lambda: reports(said), "for the line")
    assert reports(said)[0][1] == 2
    for number in pumps.keys() - known:
        del pumps[number]
    monkeypatch.undo()
    draining.hurry.set()
    await draining.over()
    pair.close()

"""The log line at a stream's end, on both hosts: user, target, bytes, duration and outcome."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from tests.support.links import TARGET, Pair, ending, exchange, requests_of, reset
from tests.support.waiting import until
from tunnel.errors import RefusedError
from tunnel.wire.codes import Code

ME = os.geteuid()

Events = list[MutableMapping[str, Any]]


@pytest.fixture
def said() -> Iterator[Events]:
    """The captured log, also of loggers that were bound before."""
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
async def pair(said: Events) -> AsyncIterator[Pair]:
    joined = await Pair().up()
    yield joined
    joined.close()


def ends(said: Events, peer: str) -> Events:
    return [each for each in said if each["event"] == "stream closed" and each["peer"] == peer]


async def opened(pair: Pair) -> tuple[socket.socket, socket.socket]:
    """Open a stream of a user of host a. Return both hypervisors' ends."""
    here, caller = pair.local()
    await pair.a.open(here, TARGET, asyncio.get_running_loop().time() + 5, ME)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    there, called = pair.local()
    pair.b.streams.on_dialled(requests_of(pair.b).wanted.pop(), there)
    return caller, called


async def test_both_hosts_log_a_complete_stream(pair: Pair, said: Events) -> None:
    caller, called = await opened(pair)
    await exchange(caller, called)
    caller.shutdown(socket.SHUT_WR)
    assert await ending(called) == "close"
    called.shutdown(socket.SHUT_WR)
    assert await ending(caller) == "close"
    await until(lambda: ends(said, "hostb") and ends(said, "hosta"), "for both lines")
    [here], [there] = ends(said, "hostb"), ends(said, "hosta")
    assert here.pop("seconds") >= 0
    assert there.pop("seconds") >= 0
    common = {
        "event": "stream closed",
        "log_level": "info",
        "stream": 1,
        "target": TARGET,
        "outcome": "complete",
    }
    assert here == common | {
        "peer": "hostb",
        "direction": "out",
        "uid": ME,
        "user": pwd.getpwuid(ME).pw_name,
        "bytes_from_local": 5,
        "bytes_to_local": 4,
    }
    assert there == common | {
        "peer": "hosta",
        "direction": "in",
        "bytes_from_local": 4,
        "bytes_to_local": 5,
    }


async def test_reset_is_logged_with_its_side(pair: Pair, said: Events) -> None:
    caller, called = await opened(pair)
    await exchange(caller, called)
    reset(caller)
    assert await ending(called) == "reset"
    await until(lambda: ends(said, "hostb") and ends(said, "hosta"), "for both lines")
    [here], [there] = ends(said, "hostb"), ends(said, "hosta")
    assert (here["outcome"], there["outcome"]) == ("reset here", "reset by the peer")


async def test_refusal_is_logged_with_its_target(pair: Pair, said: Events) -> None:
    caller = await pair.request(pair.a)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    pair.b.streams.on_not_dialled(requests_of(pair.b).wanted.pop(), RefusedError("no", Code.TARGET_FORBIDDEN))
    assert await ending(caller) == "reset"
    [here] = ends(said, "hostb")
    assert (here["outcome"], here["bytes_from_local"]) == ("refused by the peer", 0)
    [there] = [each for each in said if each["event"] == "stream refused"]
    assert (there["target"], there["reason"]) == (TARGET, "no")
    assert ends(said, "hosta") == []


async def test_end_of_the_link_is_the_end_of_its_streams(pair: Pair, said: Events) -> None:
    await opened(pair)
    pair.a.end(Code.NONE, "over")
    await until(lambda: ends(said, "hostb") and ends(said, "hosta"), "for both lines")
    assert {each["outcome"] for each in ends(said, "hostb") + ends(said, "hosta")} == {"link down"}

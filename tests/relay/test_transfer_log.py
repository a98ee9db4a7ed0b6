"""The log line of a transfer: one for all overlapping streams to a target, on both hosts."""

from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import Any

import structlog
from structlog.testing import capture_logs

from tests.support.links import TARGET, Pair, ending, exchange
from tests.support.waiting import until
from tunnel.relay.transfer_log import Transfers, TransfersElsewhere

ME = os.geteuid()


def pump(number: int, target: str = TARGET, *, outwards: bool = True, uid: int | None = None) -> Any:
    facts = {"bytes_read": 10 * number, "bytes_written": number}
    return SimpleNamespace(number=number, target=target, outwards=outwards, uid=uid, **facts)


def told(*steps: tuple[Any, str]) -> list[tuple[object, ...]]:
    """Return what is logged when streams begin (no outcome) and end (with an outcome), in this order."""
    with capture_logs() as said:
        transfers = Transfers(structlog.get_logger())
        for stream, outcome in steps:
            if outcome:
                transfers.ended(stream, outcome)
            else:
                transfers.began(stream)
    keys = ("target", "direction", "streams", "bytes_from_local", "bytes_to_local", "outcome")
    return [tuple(each[key] for key in keys) for each in said]


def test_streams_that_overlap_are_one_transfer() -> None:
    one, two, three, later = (pump(number) for number in (1, 3, 5, 7))
    steps = [(one, ""), (two, ""), (one, "complete"), (three, ""), (two, "complete"), (three, "complete")]
    assert told(*steps, (later, ""), (later, "complete")) == [
        (TARGET, "out", 3, 90, 9, "complete"),
        (TARGET, "out", 1, 70, 7, "complete"),
    ]


def test_targets_and_directions_are_distinguished() -> None:
    other, back = pump(3, "unix:/run/qemu/web1"), pump(2, outwards=False)
    steps = [(pump(1), ""), (other, ""), (back, ""), (other, "complete"), (back, "complete")]
    assert [each[:3] for each in told(*steps, (pump(1), "complete"))] == [
        ("unix:/run/qemu/web1", "out", 1),
        (TARGET, "in", 1),
        (TARGET, "out", 1),
    ]


def test_first_failure_is_the_outcome() -> None:
    one, two, three = (pump(number) for number in (1, 3, 5))
    begin = [(each, "") for each in (one, two, three)]
    [line] = told(*begin, (one, "complete"), (two, "reset here"), (three, "link down"))
    assert line[-1] == "reset here"


def test_refused_stream_is_no_transfer() -> None:
    assert told((pump(1), "refused by the peer")) == []


async def test_both_hosts_log_it() -> None:
    with capture_logs() as said:
        pair = await Pair().up()
        streams = [await pair.stream() for _ in range(3)]
        for caller, called in streams:
            await exchange(caller, called)
            caller.shutdown(socket.SHUT_WR)
            assert await ending(called) == "close"
            called.shutdown(socket.SHUT_WR)
            assert await ending(caller) == "close"

        def lines() -> list[Any]:
            return [each for each in said if each["event"] == "transfer ended"]

        await until(lambda: sum(each["streams"] for each in lines()) == 6, "for every stream to be logged")
        pair.close()
    assert {(each["peer"], each["direction"]) for each in lines()} == {("hostb", "out"), ("hosta", "in")}
    assert {each["outcome"] for each in lines()} == {"complete"}


def test_streams_of_several_sessions_are_one_transfer() -> None:
    """They may have the same numbers."""
    with capture_logs() as said:
        transfers = Transfers(structlog.get_logger())
        one, two = pump(1), pump(1)
        transfers.began(one)
        transfers.began(two, "session 1")
        transfers.ended(one, "complete")
        assert not said
        transfers.ended(pump(3), "refused by the peer", "session 1")
        transfers.ended(two, "complete", "session 1")
    [line] = said
    assert (line["streams"], line["bytes_from_local"]) == (2, 20)


async def test_streams_of_another_loop_are_logged() -> None:
    with capture_logs() as said:
        transfers, stream = Transfers(structlog.get_logger()), pump(1)
        there = TransfersElsewhere(asyncio.get_running_loop(), transfers, "session 1")

        def carry() -> None:
            there.began(stream)
            there.ended(stream, "complete")

        await asyncio.to_thread(carry)
        await until(lambda: said, "for the line")
    [line] = said
    assert (line["streams"], line["outcome"]) == (1, "complete")

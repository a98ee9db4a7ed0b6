"""Streams that end before their target was dialled: the next one is dialled, and no state is left."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.targets import Requester, Target
from tests.support.waiting import turns, until
from tunnel.relay.egress import Egress


async def test_stream_that_ended_while_queued_is_not_dialled(
    link: Requester, egress: Egress, target: Target
) -> None:
    """QEMU treats its first connection as the migration, and would wait for it forever."""
    for number in (1, 2, 3):
        egress.request(number, target.text)
    await turns()
    egress.cancel(1)
    egress.cancel(2)
    target.listen()
    await until(lambda: 3 in link.dialled)
    assert link.order == [3]
    assert target.accepted() == 1
    await until(lambda: not egress._tasks)
    assert (egress._targets, egress._serving) == ({}, {}), "no state is left"


async def test_connection_that_comes_up_too_late_is_reset(link: Requester, egress: Egress) -> None:
    """The kernel has it, and the loop has not seen it yet; sometimes the loop is faster than this test."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        accepted: list[socket.socket] = []
        for number in range(1, 200, 2):
            egress.request(number, f"tcp:127.0.0.1:{listener.getsockname()[1]}")
            while len(accepted) <= number // 2:
                await asyncio.sleep(0)
                with suppress(BlockingIOError):
                    accepted.append(listener.accept()[0])
            egress.cancel(number)
            if number not in link.dialled:
                break
        await until(lambda: not egress._tasks)
        assert number not in link.dialled
        accepted[-1].settimeout(60)
        with pytest.raises(ConnectionResetError):
            accepted[-1].recv(1)
        for sock in accepted:
            sock.close()


async def test_no_state_is_left_of_a_stream_that_ended(link: Requester, egress: Egress, tmp: Path) -> None:
    """A peer may open and reset streams forever: only open ones may use memory."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # the first stream waits until its deadline
        busy = f"tcp:127.0.0.1:{deaf.getsockname()[1]}"
        with socket.create_connection(deaf.getsockname()):
            egress.request(1, busy)
            await turns()
            for number in range(3, 1003, 2):
                egress.request(number, busy if number % 4 == 1 else f"unix:{tmp}/{number}")
                egress.cancel(number)
            assert egress._targets == {1: next(iter(egress._queues))}
            assert [len(queue) for queue in egress._queues.values()] == [1]
            await until(lambda: len(egress._tasks) == 1)
            egress.cancel(1)
    await until(lambda: not egress._tasks)
    assert (egress._targets, egress._queues, egress._serving) == ({}, {}, {})
    assert link.order == []


async def test_stream_that_ended_while_being_dialled_delays_no_other(link: Requester, egress: Egress) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.create_connection(deaf.getsockname()) as filler:
            for number in (1, 3, 5):
                egress.request(number, f"tcp:127.0.0.1:{deaf.getsockname()[1]}")
            await turns()
            accepted = [deaf.accept()[0]]
            egress.cancel(1)
            egress.cancel(3)
            deaf.setblocking(False)
            callers: list[socket.socket] = []

            def dialled() -> bool:
                with suppress(BlockingIOError):
                    callers.append(deaf.accept()[0])
                return 5 in link.dialled

            await until(dialled)
            assert link.order == [5]
            filler.close()
        for sock in (*accepted, *callers):
            sock.close()


async def test_cancelling_twice_or_too_late_changes_nothing(
    link: Requester, egress: Egress, target: Target
) -> None:
    target.listen()
    egress.request(1, target.text)
    await until(lambda: 1 in link.dialled)
    egress.cancel(1)
    egress.cancel(7)
    assert link.order == [1]
    assert target.accepted() == 1


async def test_closing_stops_all_dialling(link: Requester, egress: Egress, target: Target) -> None:
    for number in (1, 2):
        egress.request(number, target.text)
    await turns()
    egress.close()
    await until(lambda: not egress._tasks)
    target.listen()
    await turns()
    assert link.order == []
    assert target.accepted() == 0


async def test_a_closed_egress_serves_the_next_session(
    link: Requester, egress: Egress, target: Target
) -> None:
    egress.request(1, target.text)
    await turns()
    egress.close()
    egress.request(1, target.text)  # the same number in another session
    target.listen()
    await until(lambda: 1 in link.dialled)
    assert target.accepted() == 1

"""Sessions that a host begins: choice of session, order of streams, and end of idle sessions."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.groups import Stage, identities, stage, staged, worker_of
from tests.support.lanes import Hosts
from tests.support.links import ending, hurry, receive
from tests.support.waiting import turns, until
from tunnel.errors import RefusedError
from tunnel.relay import worker_load
from tunnel.relay.worker_session import WorkerSession
from tunnel.units import MIB
from tunnel.wire.frames import Limits
from tunnel.wire.session import DEFAULT_LIMITS, Settings

__all__ = ["identities", "stage"]


# Order.


async def test_streams_to_one_target_arrive_in_order(stage: Stage) -> None:
    """Whichever session they use: multifd's channels must not overtake the main one."""
    target = stage.listen()
    pending = [asyncio.create_task(stage.ask(target)) for _ in range(32)]
    for number, task in enumerate(pending):
        caller = await task
        caller.send(bytes([number]))
    arrived = [(await receive(await stage.accept(target), 1))[0] for _ in pending]
    assert arrived == list(range(32))
    await until(lambda: min(stage.b.spread) > 0, "for all workers to have some")


async def test_target_that_does_not_answer_blocks_only_its_own_streams(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = f"unix:{stage.directory}/nobody"
    await stage.ask(never)
    waiting = asyncio.create_task(stage.ask(never))
    for number in range(4):
        await stage.stream(stage.listen(f"target{number}"))
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_refused_stream_lets_the_next_one_proceed(stage: Stage) -> None:
    forbidden = "unix:/run/forbidden"
    callers = await asyncio.gather(*(stage.ask(forbidden) for _ in range(6)))
    for caller in callers:
        assert await asyncio.wait_for(ending(caller), 60) in {"close", "reset"}
    assert not stage.a.group._own._order.taken(forbidden)


async def test_client_that_disconnected_while_waiting_is_not_passed_on(stage: Stage) -> None:
    """A hypervisor treats its first connection as the migration."""
    path = stage.directory / "late"
    first = await stage.ask(f"unix:{path}")
    ours, caller = socket.socketpair()
    opening = asyncio.create_task(stage.a.group.open(ours, f"unix:{path}", 0.0, 0))
    await turns()
    caller.close()
    stage.listen("late")
    await stage.accept(f"unix:{path}")
    with pytest.raises(RefusedError, match="disconnected while waiting"):
        await opening
    ours.close()
    assert first.fileno() >= 0


# Choice of session.


async def test_a_small_stream_beside_bulk_gets_another_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_load, "YOUNG", 0.0)
    monkeypatch.setattr(worker_load, "PERIOD", 0.05)
    target = stage.listen()
    caller, called = await stage.stream(target)
    loop = asyncio.get_running_loop()

    async def pour() -> None:
        while True:
            await loop.sock_sendall(caller, bytes(MIB))

    async def drink() -> None:
        while await loop.sock_recv(called, MIB):
            pass

    bulk = [asyncio.create_task(pour()), asyncio.create_task(drink())]
    try:
        await asyncio.sleep(0.3)
        await stage.stream(target)
        assert stage.a.spread[0] == 1
        assert sum(stage.a.spread[1:]) == 1
    finally:
        for task in bulk:
            task.cancel()
        await asyncio.gather(*bulk, return_exceptions=True)


async def test_existing_sessions_are_used_again(stage: Stage) -> None:
    target = stage.listen()
    for _ in range(3):
        for sock in await stage.stream(target):
            sock.close()
    await until(lambda: sum(stage.a.spread) == 0, "for the end of the streams")
    before = dict(stage.a.ours)
    for _ in range(3):
        await stage.stream(target)
    assert {number: stage.a.ours[number] for number in before} == before


def let_none_come_up(stage: Stage) -> None:
    """Nothing listens where side A dials its additional sessions."""
    own = stage.a.group._own
    assert own._dial is not None
    own._dial = replace(own._dial, port=1)


async def test_session_that_does_not_come_up_delays_its_stream_briefly(stage: Stage) -> None:
    """As with a firewall that limits connections: streams use the primary session, and this is reported."""
    hurry(stage.a.group.standing, additional=0.2)
    let_none_come_up(stage)
    target = stage.listen()
    for _ in range(3):
        caller, called = await stage.stream(target)
        caller.send(b"x")
        assert await receive(called, 1) == b"x"
    assert stage.a.spread == [3, 0, 0]
    assert not stage.a.ours
    [told] = [reason for reason in stage.a.reasons() if reason.startswith("no further session")]
    assert "streams use the primary session for the next 60 s: no link with hostb" in told


async def test_a_stream_does_not_wait_for_a_worker_that_does_not_answer(stage: Stage) -> None:
    """It uses the primary session, and the worker later finds the ticket taken."""
    hurry(stage.a.group.standing, additional=0.2, worker=0.1)
    target = stage.listen()
    await stage.stream(target)
    hanging = [asyncio.create_task(each.call(hang, 2.0)) for each in stage.a.workers.all[1:]]
    caller, called = await stage.stream(target)
    assert not any(task.done() for task in hanging)
    caller.send(b"x")
    assert await receive(called, 1) == b"x"
    assert stage.a.spread[0] == 2
    assert any("does not answer" in reason for reason in stage.a.reasons())
    await asyncio.gather(*hanging)
    await turns()
    assert sum(stage.a.spread) == 2


async def test_stream_returned_late_by_a_worker_uses_the_primary_session(stage: Stage) -> None:
    """The worker has begun with it, and then hangs for longer than the timeout."""
    hurry(stage.a.group.standing, additional=0.2, worker=0.1)
    let_none_come_up(stage)
    target = stage.listen()
    await stage.stream(target)
    asking = asyncio.create_task(stage.ask(target))
    await until(lambda: any(further.link for further in stage.a.ours.values()), "for the worker to begin")
    (further,) = stage.a.ours.values()
    hanging = asyncio.create_task(further.worker.call(hang, 1.0))
    await hanging
    caller, called = await asking, await stage.accept(target)
    caller.send(b"x")
    assert await receive(called, 1) == b"x"
    assert stage.a.spread == [2, 0, 0]
    await stage.stream(target)
    assert not stage.a.group._own._order.awaited(target)


async def test_connection_of_a_worker_that_ended_is_not_passed_to_another(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its target may have been dialled: a hypervisor treats its first connection as the migration."""
    target = stage.listen()
    await stage.stream(target)
    real = WorkerSession.open

    async def open_and_die(self: WorkerSession, *args: Any) -> None:
        await real(self, *args)
        raise SystemExit("a fault")

    monkeypatch.setattr(WorkerSession, "open", open_and_die)
    ours, caller = socket.socketpair()
    caller.setblocking(False)
    deadline = asyncio.get_running_loop().time() + 30
    with caller:
        with pytest.raises(RefusedError, match="has ended while it owned the connection"):
            await stage.a.group.open(ours, target, deadline, 0)
        assert await asyncio.wait_for(ending(caller), 60) in {"reset", "close"}
    monkeypatch.undo()
    assert stage.a.spread[0] == 1
    await until(lambda: stage.a.told, "for the report")
    await until(lambda: not stage.a.group._own._order.taken(target), "for the turn to pass")


async def test_connection_cancelled_while_a_worker_has_it_is_reset(stage: Stage) -> None:
    """The daemon stops: clients see a failure, whether or not the worker has begun with them."""
    hurry(stage.a.group.standing, additional=1.0)
    let_none_come_up(stage)
    target = stage.listen()
    await stage.stream(target)
    hanging = asyncio.create_task(stage.a.workers.all[2].call(hang, 0.5))
    deadline = asyncio.get_running_loop().time() + 30
    pairs = [socket.socketpair() for _ in range(2)]
    asking = [
        asyncio.create_task(stage.a.group.open(ours, f"{target}{number}", deadline, 0))
        for number, (ours, _) in enumerate(pairs)
    ]
    begun = stage.a.workers.all[1].links
    await until(lambda: len(stage.a.ours) == 2 and begun, "for one worker to begin, and one not to")
    for task in asking:
        task.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError)
        for each in await asyncio.gather(*asking, return_exceptions=True)
    )
    for _, caller in pairs:
        caller.setblocking(False)
        with caller:
            assert await asyncio.wait_for(ending(caller), 60) in {"reset", "close"}
    assert sum(stage.a.spread) == 1
    await hanging


async def hang(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  this is what the test is about


async def test_clients_that_connected_before_the_link_keep_their_order(identities: Hosts, tmp: Path) -> None:
    """The first uses the primary session, the only one so far. The next waits until that is answered."""
    async with staged(identities, tmp, (2, 2), up=False) as stage:
        target = f"unix:{tmp}/late"
        callers = [asyncio.create_task(stage.ask(target)) for _ in range(4)]
        await turns()
        stage.dials.set()
        await until(lambda: stage.a.group.parallel, "for the link")
        callers += [asyncio.create_task(stage.ask(target)) for _ in range(4)]
        await until(lambda: sum(stage.a.spread) >= 4, "for the first ones")
        stage.listen("late")
        for number, task in enumerate(callers):
            (await task).send(bytes([number]))
        arrived = [(await receive(await stage.accept(target), 1))[0] for _ in callers]
        assert arrived == list(range(8))


async def test_a_worker_that_does_not_answer_gets_no_stream(stage: Stage) -> None:
    stage.a.workers.all[1].answers = False
    target = stage.listen()
    for _ in range(4):
        await stage.stream(target)
    assert stage.a.spread[1] == 0
    stage.a.workers.all[1].answers = True


async def test_without_an_ingress_nothing_is_begun(stage: Stage) -> None:
    """The other side has no ingress for this host: its streams use the primary session."""
    assert not stage.b.group.parallel


async def test_streams_wait_for_a_slot_until_the_deadline(identities: Hosts, tmp: Path) -> None:
    limits = Limits(2, DEFAULT_LIMITS.control)
    async with staged(identities, tmp, settings=Settings(limits)) as stage:
        target = stage.listen()
        for _ in range(2):
            await stage.stream(target)
        ours, caller = socket.socketpair()
        with ours, caller:
            deadline = asyncio.get_running_loop().time() + 0.3
            with pytest.raises(RefusedError, match="the peer allows 2 streams at once"):
                await stage.a.group.open(ours, target, deadline, 0)


async def test_socket_passed_to_a_worker_is_detached(stage: Stage) -> None:
    """Closing it then does not close the stream."""
    target = stage.listen()
    await stage.stream(target)
    ours, caller = socket.socketpair()
    await stage.a.group.open(ours, target, asyncio.get_running_loop().time() + 30, 0)
    ours.close()
    called = await stage.accept(target)
    with caller:
        caller.send(b"still there")
        assert await receive(called, 11) == b"still there"


# Idle sessions.


async def test_an_idle_session_is_ended(stage: Stage) -> None:
    hurry(stage.a.group.standing, look=0.02, idle=0.2)
    await until(lambda: True)
    target = stage.listen()
    first, second = [await stage.stream(target) for _ in range(2)]
    link = worker_of(stage.a, 1)
    await asyncio.sleep(0.5)
    assert stage.a.ours, "it has a stream"
    for sock in second:
        sock.close()
    await until(lambda: not stage.a.ours and not stage.b.theirs, "for the end of the session")
    assert link.session is None
    assert not any("link down" in reason for reason in stage.b.reasons()), "no incident"
    first[0].send(b"x")
    assert await receive(first[1], 1) == b"x"
    await stage.stream(target)
    assert set(stage.a.ours) == {1}, "begun again when needed"

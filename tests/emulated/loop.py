"""Kernel lanes must not block the event loop: ``test_emulated_kernel`` runs this in a virtual machine.

The load, simultaneously: a hypervisor that writes small pieces, one that does not read, so that pipes fill
up, and two whose bulk fills the lane, so that splices find a full socket.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import statistics
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.lanes import Hosts, baselane
from tests.support.relays import Relay, content, relaying, send
from tests.support.tracing import CALLS, RETURNS, tracing
from tests.support.waiting import turns, until
from tunnel.lanes.kernel_lane import KernelLane
from tunnel.lanes.lane import Lane
from tunnel.units import KIB, MIB

TRIPS = 15
QUESTION = 64
STUCK = 5
"""The number of the stream whose receiver does not read: numbers increase by two."""

ENDLESS = 1 << 40
EPOLL = {"epoll_wait", "epoll_pwait"}
CALL = re.compile(r" sys_(\w+)\(")
RETURN = re.compile(r" sys_\w+ -> ")
ASLEEP = re.compile(r"sched_switch: .*prev_pid=(\d+) .*prev_state=([SD])")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Two hosts with certificates."""
    return Hosts.create(tmp_path_factory.mktemp("loop") / "pki")


async def crumbs(sock: socket.socket) -> None:
    """Send a few bytes at a time, forever."""
    loop, sent = asyncio.get_running_loop(), 0
    while True:
        piece = content(sent, 1 + sent % 300)
        await loop.sock_sendall(sock, piece)
        sent += len(piece)
        await asyncio.sleep(0)


async def swallow(sock: socket.socket) -> None:
    """Read forever."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(sock, 64 * KIB):
        pass


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines in the background; none may end early."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def loaded(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Apply the load described above; the pipes of the hypervisor that does not read are full."""
    pieces, stuck, bulk = [await relay.stream() for _ in range(3)]
    pump = relay.b.streams.pumps[STUCK]
    work = [crumbs(pieces[0]), swallow(pieces[1])]
    work += [send(bulk[0], ENDLESS), swallow(bulk[1]), send(bulk[1], ENDLESS), swallow(bulk[0])]
    try:
        async with running(send(stuck[0], ENDLESS)):
            await standstill(lambda: (pump.backlog, pump.bytes_written))
            assert pump.backlog > MIB, "unread payload fills the pump's pipe"
            waits = narrow(relay, monkeypatch)
            async with running(*work):
                await until(lambda: len(waits) > 10, "for splices to a full socket")
                yield
    finally:
        for end in (*pieces, *stuck, *bulk):
            end.close()
    await until(lambda: len(relay.a.streams.pumps) == len(relay.b.streams.pumps) == 1, "for the load to end")


def narrow(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    """Shrink the send buffers of all lanes; return a list that gets a lane each time its socket is full."""
    waits: list[Lane] = []
    push = KernelLane._push

    def watched(self: KernelLane) -> bool:
        if not (done := push(self)):
            waits.append(self)
        return done

    monkeypatch.setattr(KernelLane, "_push", watched)
    for lane in (*relay.a.lanes.values(), *relay.b.lanes.values()):
        baselane(lane)._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * KIB)
    return waits


async def standstill(look: Callable[[], tuple[int, int]]) -> None:
    """Wait until the values are nonzero and do not change for hundreds of loop iterations."""
    before = (0, 0)
    while not all(before) or before != look():
        before = look()
        await turns(500)


class Turns:
    """Counts loop iterations, and keeps the loop from sleeping."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._next = self._loop.call_soon(self._turn)

    def end(self) -> None:
        self._next.cancel()


async def round_trips(relay: Relay, ends: tuple[socket.socket, socket.socket]) -> tuple[list[int], list[int]]:
    """Return, per round trip of a small stream, loop iterations and bytes that the lane sent meanwhile."""
    loop, (caller, called), counter = asyncio.get_running_loop(), ends, Turns()
    (lane,) = relay.a.lanes.values()
    counts, carried = [], []
    for _ in range(TRIPS):
        start, before = counter.count, lane.bytes_sent
        await loop.sock_sendall(caller, b"?" * QUESTION)
        got = 0
        while got < QUESTION:
            got += len(await loop.sock_recv(called, QUESTION))
        await loop.sock_sendall(called, b"!")
        assert await loop.sock_recv(caller, 1) == b"!"
        counts.append(counter.count - start)
        carried.append(lane.bytes_sent - before)
    counter.end()
    return counts, carried


async def test_a_round_trip_of_a_small_stream_takes_few_loop_iterations_under_load(
    hosts: Hosts, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relaying(hosts, ("kernel", "kernel"), tmp) as relay, asyncio.timeout(200):
        small = await relay.stream()
        with small[0], small[1]:
            idle, alone = await round_trips(relay, small)
            async with loaded(relay, monkeypatch):
                busy, beside = await round_trips(relay, small)
        assert max(alone) < KIB, "no other traffic"
        assert statistics.median(beside) > 64 * KIB, "much other traffic"
        assert statistics.median(busy) <= 2 * statistics.median(idle)
        assert max(busy) <= 4 * max(idle)
        assert max(beside) <= 4 * MIB


async def test_the_loop_sleeps_only_in_epoll_wait(
    hosts: Hosts, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relaying(hosts, ("kernel", "kernel"), tmp) as relay, asyncio.timeout(200):
        small = await relay.stream()
        with small[0], small[1]:
            async with loaded(relay, monkeypatch):
                with tracing(*CALLS, *RETURNS, "sched/sched_switch") as lines:
                    (lane,) = relay.a.lanes.values()
                    goal = lane.bytes_sent + 4 * MIB
                    await until(lambda: lane.bytes_sent > goal)
    called = [found[1] for line in lines if (found := CALL.search(line))]
    assert called.count("splice") > 100
    elsewhere = [at for at, call in sleeps(lines) if call not in EPOLL]
    assert not elsewhere, "\n".join(lines[max(0, elsewhere[0] - 5) : elsewhere[0] + 15])


def test_a_sleep_is_detected() -> None:
    """Control of the previous test."""
    ours, theirs = socket.socketpair()
    with ours, theirs, tracing(*CALLS, *RETURNS, "sched/sched_switch") as lines:
        timer = threading.Timer(0.01, theirs.send, (b"x",))
        timer.start()
        assert ours.recv(1) == b"x"
        timer.join()
    assert "recvfrom" in [call for _, call in sleeps(lines)]


def sleeps(lines: list[str]) -> list[tuple[int, str]]:
    """Return line number and name of the traced system calls in which this process slept."""
    call, found = "", []
    for at, line in enumerate(lines):
        if made := CALL.search(line):
            call = made[1]
        elif RETURN.search(line):
            call = ""
        elif (left := ASLEEP.search(line)) and call and int(left[1]) == os.getpid():
            found.append((at, call))
    return found

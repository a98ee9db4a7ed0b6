"""A TCP relay between two daemons that can cut or stall their connections at any byte."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Self

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_LAST_BYTES = 1.0  # seconds in which data is discarded after a connection was closed with FIN


class Way(Enum):
    """A direction through the cutter."""

    THERE = "to the target"
    BACK = "to the client"


@dataclass
class Fate:
    """The fault of a future connection.

    It is cut after ``cut_after`` bytes of both directions together, without RST to the target if ``silent``;
    data to the client is delayed by ``seconds`` after ``hold_after`` bytes of it.
    """

    cut_after: int | None = None
    silent: bool = False
    hold_after: int | None = None
    seconds: float = 0.0


@dataclass(eq=False)
class _Pair:
    """One connection: its two sockets, and its fault."""

    near: socket.socket
    far: socket.socket
    fate: Fate
    orderly: bool = False  # FIN on both sides
    silent: bool = False  # no RST to the target
    cut: bool = False


class Cutter:
    """Listens on ``address`` and relays every connection to ``towards`` (both ``IP:PORT``).

    Runs in its own thread and event loop; a cut connection gets RST on both sides, or FIN if ``orderly``.
    """

    def __init__(self, towards: str) -> None:
        host, _, port = towards.rpartition(":")
        self._towards = (host, int(port))
        self._server = socket.create_server(("127.0.0.4", 0))
        self._server.setblocking(False)
        self.address = f"127.0.0.4:{self._server.getsockname()[1]}"
        self.carried = 0  # bytes, both ways, over all connections
        self.connections = 0
        self.cuts = 0  # connections that it has cut
        self.closed = False  # reset new connections; existing ones continue
        self.one_at_a_time = False  # ``cut_after`` cuts only the connection that carried the byte
        self._cuts: deque[int] = deque()
        self._left: int | None = None
        self._fates: deque[Fate] = deque()
        self._ending: set[asyncio.Task[None]] = set()
        self._pairs: dict[asyncio.Task[None], _Pair] = {}
        self._loop = asyncio.SelectorEventLoop()
        self._flowing = {way: asyncio.Event() for way in Way}
        self._flow()
        self._thread = threading.Thread(target=self._run, name="cutter")
        self._thread.start()

    # Called by tests.

    def cut(self, *, orderly: bool = False, silent: bool = False, which: int | None = None) -> None:
        """Cut every connection now, or number ``which``, modulo their number.

        ``silent``: no RST to the target.
        """

        def cut() -> None:
            tasks = [task for task, pair in self._pairs.items() if not pair.cut]
            chosen = tasks if which is None or not tasks else [tasks[which % len(tasks)]]
            self._cut(chosen, orderly=orderly, silent=silent)

        self._call(cut)

    def next_ones(self, *fates: Fate) -> None:
        """Set the faults of the next connections, in order."""
        self._call(lambda: self._fates.extend(fates))

    def cut_after(self, *counts: int) -> None:
        """Cut after the first count of bytes from now on, then after the next count, and so on."""

        def plan() -> None:
            self._cuts.extend(counts)
            self._next_cut()

        self._call(plan)

    def stall(self, *ways: Way) -> None:
        """Stop relaying in these directions, default: both, like a network that drops every packet."""

        def stall() -> None:
            for way in ways or Way:
                self._flowing[way].clear()

        self._call(stall)

    def flow(self) -> None:
        """Resume relaying in both directions."""
        self._call(self._flow)

    @property
    def cuts_left(self) -> int:
        """The number of planned cuts that have not happened yet."""
        return len(self._cuts) + (self._left is not None)

    def close(self) -> None:
        """Cut all connections, and stop listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # In its thread.

    def _flow(self) -> None:
        for flowing in self._flowing.values():
            flowing.set()

    def _call(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the loop's thread, and wait for it."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _run(self) -> None:
        accepting = self._loop.create_task(self._accept())
        self._loop.run_forever()
        accepting.cancel()
        self._cut()
        ended = [accepting, *self._pairs]
        self._loop.run_until_complete(asyncio.gather(*ended, return_exceptions=True))
        for ending in self._ending:
            ending.cancel()
        self._loop.run_until_complete(asyncio.gather(accepting, *self._ending, return_exceptions=True))
        self._server.close()
        self._loop.close()

    async def _accept(self) -> None:
        while True:
            near, _ = await self._loop.sock_accept(self._server)
            self.connections += 1
            if self.closed:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                near.close()
                continue
            far = socket.socket()
            for sock in (near, far):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(near, far, self._fates.popleft() if self._fates else Fate())
            task = self._loop.create_task(self._relay(pair))
            self._pairs[task] = pair
            task.add_done_callback(self._ended)  # also of one that is cancelled before its first step

    async def _relay(self, pair: _Pair) -> None:
        try:
            await self._loop.sock_connect(pair.far, self._towards)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(pair, Way.THERE))
                tasks.create_task(self._carry(pair, Way.BACK))
        except* OSError:
            pass  # one end is closed: close the other as well

    def _ended(self, task: asyncio.Task[None]) -> None:
        pair = self._pairs.pop(task)
        if pair.orderly or pair.silent:
            self._ending.add(ending := self._loop.create_task(self._end(pair)))
            ending.add_done_callback(self._ending.discard)
            ending.add_done_callback(lambda _: _reset(pair.near, pair.far))
        else:
            _reset(pair.near, pair.far)

    async def _carry(self, pair: _Pair, way: Way) -> None:
        source, sink = (pair.near, pair.far) if way is Way.THERE else (pair.far, pair.near)
        while data := await self._loop.sock_recv(source, _CHUNK):
            await self._flowing[way].wait()
            if way is Way.BACK:
                await self._hold(pair.fate, len(data))
            if pair.cut:  # but not cancelled yet: no await here has suspended since then
                return
            most = min((left for left in (self._left, pair.fate.cut_after) if left is not None), default=None)
            await self._loop.sock_sendall(sink, data[:most])
            carried = len(data[:most])
            self.carried += carried
            self._spend(carried, pair)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    async def _hold(self, fate: Fate, count: int) -> None:
        """Delay data to the client once ``hold_after`` bytes of it have arrived."""
        if fate.hold_after is not None:
            fate.hold_after -= count
            if fate.hold_after < 0:
                fate.hold_after = None
                await asyncio.sleep(fate.seconds)

    async def _end(self, pair: _Pair) -> None:
        """Send FIN to both sides and discard further data; or, if silent, RST only to the client."""
        if pair.silent:
            _reset(pair.near)
            await self._throw_away(pair.far)
            return
        socks = (pair.near, pair.far)
        for sock in socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_BYTES):
                await asyncio.gather(*map(self._throw_away, socks))

    async def _throw_away(self, sock: socket.socket) -> None:
        with suppress(OSError):
            while await self._loop.sock_recv(sock, _CHUNK):
                pass

    def _spend(self, count: int, pair: _Pair) -> None:
        fate = pair.fate
        if fate.cut_after is not None:
            fate.cut_after -= count
            if fate.cut_after <= 0:
                fate.cut_after = None
                self._cut(self._hit(pair), silent=fate.silent)
        if self._left is None or pair.cut:
            return
        self._left -= count
        if self._left <= 0:
            self._left = None
            self._cut(self._hit(pair) if self.one_at_a_time else None)
            self._next_cut()

    def _next_cut(self) -> None:
        if self._left is None and self._cuts:
            self._left = self._cuts.popleft()

    def _hit(self, hit: _Pair) -> list[asyncio.Task[None]]:
        return [task for task, pair in self._pairs.items() if pair is hit]

    def _cut(
        self, tasks: list[asyncio.Task[None]] | None = None, *, orderly: bool = False, silent: bool = False
    ) -> list[asyncio.Task[None]]:
        """Cut the connections of ``tasks``, or all of them; return the tasks that relayed them."""
        tasks = [task for task in (self._pairs if tasks is None else tasks) if not self._pairs[task].cut]
        for task in tasks:
            pair = self._pairs[task]
            pair.cut, pair.orderly, pair.silent = True, orderly, silent
            task.cancel()
        self.cuts += len(tasks)
        return tasks


def _reset(*socks: socket.socket) -> None:
    for sock in socks:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()

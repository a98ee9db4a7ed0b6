"""A relay between two daemons that can cut or stall their connection, wherever a test wants it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Cutter:
    """Listens on ``address`` and carries every connection on to ``towards`` (both ``IP:PORT``).

    Runs on a thread with a loop of its own; a connection that it cuts ends in RST on both sides.
    """

    def __init__(self, towards: str) -> None:
        host, _, port = towards.rpartition(":")
        self._towards = (host, int(port))
        self._server = socket.create_server(("127.0.0.4", 0))
        self._server.setblocking(False)
        self.address = f"127.0.0.4:{self._server.getsockname()[1]}"
        self.carried = 0  # bytes, both ways, over all connections
        self.connections = 0
        self.closed = False  # carry no new connection: it is reset, and the old ones go on
        self.one_at_a_time = False  # ``cut_after`` cuts the connection that carried the byte, not all
        self._cuts: deque[int] = deque()
        self._left: int | None = None
        self._pairs: dict[asyncio.Task[None], tuple[socket.socket, socket.socket]] = {}
        self._loop = asyncio.SelectorEventLoop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._run, name="cutter")
        self._thread.start()

    # What a test does to it.

    def cut(self) -> None:
        """Cut every connection now."""
        self._call(self._cut)

    def cut_after(self, *counts: int) -> None:
        """Cut after so many bytes from now on, then after so many more, and so on."""

        def plan() -> None:
            self._cuts.extend(counts)
            self._next_cut()

        self._call(plan)

    def stall(self) -> None:
        """Carry nothing, as a network does that drops every packet."""
        self._call(self._flowing.clear)

    def flow(self) -> None:
        """Go on."""
        self._call(self._flowing.set)

    @property
    def cuts_left(self) -> int:
        """How many of the planned cuts are still to come."""
        return len(self._cuts) + (self._left is not None)

    def close(self) -> None:
        """Cut everything, and listen no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # On its thread.

    def _call(self, function: Callable[[], object]) -> None:
        """Run ``function`` on the loop's thread, and wait until it has."""
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
        ended = [accepting, *self._cut()]
        self._loop.run_until_complete(asyncio.gather(*ended, return_exceptions=True))
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
            task = self._loop.create_task(self._relay(near, far))
            self._pairs[task] = (near, far)

    async def _relay(self, near: socket.socket, far: socket.socket) -> None:
        pair = asyncio.current_task()
        assert pair is not None
        try:
            await self._loop.sock_connect(far, self._towards)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(near, far, pair))
                tasks.create_task(self._carry(far, near, pair))
        except* OSError:
            pass  # one end is gone: the other shall see it
        finally:
            for sock in (near, far):
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.close()
            self._pairs.pop(pair, None)

    async def _carry(self, source: socket.socket, sink: socket.socket, pair: asyncio.Task[None]) -> None:
        while data := await self._loop.sock_recv(source, _CHUNK):
            await self._flowing.wait()
            if pair not in self._pairs:  # cut, and not cancelled yet: nothing here has had to wait since then
                return
            now = data[: self._left]
            await self._loop.sock_sendall(sink, now)
            self.carried += len(now)
            self._spend(len(now), pair)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _spend(self, count: int, pair: asyncio.Task[None]) -> None:
        if self._left is None or pair not in self._pairs:
            return
        self._left -= count
        if self._left <= 0:
            self._left = None
            self._cut([pair] if self.one_at_a_time else None)
            self._next_cut()

    def _next_cut(self) -> None:
        if self._left is None and self._cuts:
            self._left = self._cuts.popleft()

    def _cut(self, tasks: list[asyncio.Task[None]] | None = None) -> list[asyncio.Task[None]]:
        """Reset the connections of ``tasks`` at once, or every one; the tasks that carried them."""
        tasks = list(self._pairs) if tasks is None else tasks
        for task in tasks:
            del self._pairs[task]
            task.cancel()
        return tasks

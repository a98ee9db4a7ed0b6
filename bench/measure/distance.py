"""A TCP relay that adds a round trip time between two hosts.

For kernels without netem. Each byte is delayed by half a round trip; the first data of a new connection by
one more, the time of its handshake. A reset is delayed like a byte.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
from contextlib import suppress

from tunnel.bench.measure.endpoint import ProgramAddress

_CHUNK = 256 * 1024
_UNDER_WAY = 1024  # chunks
_RESET = struct.pack("ii", 1, 0)


async def relay(entry: ProgramAddress, towards: ProgramAddress, round_trip: float) -> None:
    """Relay connections from ``entry`` to ``towards`` forever; ``round_trip`` in seconds."""
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    with entry.listen() as server:
        server.setblocking(False)
        while True:
            near, _ = await loop.sock_accept(server)
            task = asyncio.create_task(_connection(near, towards, round_trip))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def _connection(near: socket.socket, towards: ProgramAddress, round_trip: float) -> None:
    loop, far = asyncio.get_running_loop(), socket.socket()
    try:
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(far, (towards.host, towards.port))
        ready = loop.time() + round_trip
        async with asyncio.TaskGroup() as group:
            group.create_task(_way(near, far, round_trip / 2, ready))
            group.create_task(_way(far, near, round_trip / 2, ready))
    except* OSError:
        pass
    finally:
        for sock in (near, far):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()


async def _way(source: socket.socket, sink: socket.socket, delay: float, ready: float) -> None:
    """Relay one direction, in which nothing arrives before ``ready`` plus ``delay``."""
    queue = asyncio.Queue[tuple[float, bytes | OSError]](_UNDER_WAY)
    async with asyncio.TaskGroup() as group:
        group.create_task(_take(source, queue, delay, ready))
        group.create_task(_give(sink, queue))


async def _take(
    source: socket.socket, queue: asyncio.Queue[tuple[float, bytes | OSError]], delay: float, ready: float
) -> None:
    loop = asyncio.get_running_loop()
    data: bytes | OSError = b" "
    while data and isinstance(data, bytes):
        try:
            data = await loop.sock_recv(source, _CHUNK)
        except OSError as error:
            data = error
        await queue.put((max(loop.time(), ready) + delay, data))


async def _give(sink: socket.socket, queue: asyncio.Queue[tuple[float, bytes | OSError]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, data = await queue.get()
        await asyncio.sleep(due - loop.time())
        if isinstance(data, OSError):
            raise data
        if not data:
            sink.shutdown(socket.SHUT_WR)
            return
        await loop.sock_sendall(sink, data)


def main() -> None:
    """Run the relay of the command line until a signal arrives."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.distance", description=__doc__)
    parser.add_argument("entry", type=ProgramAddress.parse)
    parser.add_argument("towards", type=ProgramAddress.parse)
    parser.add_argument("--round-trip", type=float, required=True, help="seconds")
    arguments = parser.parse_args()
    asyncio.run(relay(arguments.entry, arguments.towards, arguments.round_trip))


if __name__ == "__main__":
    main()

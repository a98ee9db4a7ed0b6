"""The delaying relay: delayed bytes and resets, and an additional round trip for the handshake."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tunnel.bench.measure.distance import relay
from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp

ROUND_TRIP = 0.1

Ends = tuple[socket.socket, socket.socket, float]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Both ends of a connection through the relay, and when it was opened."""
    entry = free_tcp("127.0.0.1")
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = server.getsockname()
        relaying = asyncio.create_task(relay(entry, ProgramAddress(*address), ROUND_TRIP))
        await asyncio.sleep(0)
        near, began = socket.socket(), time.monotonic()
        near.setblocking(False)
        await loop.sock_connect(near, (entry.host, entry.port))
        far, _ = await loop.sock_accept(server)
        with near, far:
            far.setblocking(False)
            yield near, far, began
        relaying.cancel()
        with suppress(asyncio.CancelledError):
            await relaying


async def test_bytes_are_complete_and_delayed_the_first_ones_longer(ends: Ends) -> None:
    near, far, began = ends
    loop = asyncio.get_running_loop()
    for source, sink, least in ((near, far, 1.5), (far, near, 0.5), (near, far, 0.5)):
        await loop.sock_sendall(source, b"word")
        assert await loop.sock_recv(sink, 10) == b"word"
        assert time.monotonic() - began > (least - 0.1) * ROUND_TRIP
        began = time.monotonic()


async def test_ends_and_resets_are_passed_on(ends: Ends) -> None:
    near, far, _ = ends
    loop = asyncio.get_running_loop()
    near.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(far, 10) == b""
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(near, 10)

"""Refused connections, reset no sooner than half a second after they were accepted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from tunnel.relay.delayed_resets import DelayedResets


@pytest.fixture
def callers() -> Iterator[list[socket.socket]]:
    """The ends of clients."""
    with_these: list[socket.socket] = []
    yield with_these
    for sock in with_these:
        sock.close()


def refuse(resets: DelayedResets, callers: list[socket.socket], ago: float = 0.0) -> socket.socket:
    """Refuse a connection accepted ``ago`` seconds ago; return the client's end."""
    ours, caller = socket.socketpair()
    caller.setblocking(False)
    callers.append(caller)
    resets.add(ours, asyncio.get_running_loop().time() - ago)
    return caller


def is_reset(caller: socket.socket) -> bool:
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # with what it sent unread
        return True


async def test_it_is_reset_after_the_delay(callers: list[socket.socket]) -> None:
    caller = refuse(DelayedResets(0.05), callers)
    assert not is_reset(caller)
    assert caller.send(b"QEMU goes on to send") > 0
    await until(lambda: is_reset(caller), "for the reset")


async def test_one_accepted_long_ago_is_reset_immediately(callers: list[socket.socket]) -> None:
    assert is_reset(refuse(DelayedResets(0.5), callers, ago=0.5))


async def test_the_oldest_makes_room_for_another(callers: list[socket.socket]) -> None:
    resets = DelayedResets(60.0, most=2)
    held = [refuse(resets, callers) for _ in range(3)]
    assert [is_reset(caller) for caller in held] == [True, False, False]
    resets.close()
    assert all(is_reset(caller) for caller in held)


async def test_close_resets_all_immediately(callers: list[socket.socket]) -> None:
    resets = DelayedResets(60.0)
    caller = refuse(resets, callers)
    resets.close()
    assert is_reset(caller)

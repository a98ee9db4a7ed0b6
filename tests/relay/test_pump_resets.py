"""A pump whose socket is reset, or closed cleanly: distinguished, however the pump notices it."""

from __future__ import annotations

import socket

import pytest

from tests.support.pumps import Local, deliver_until_told
from tests.support.waiting import turns
from tunnel.net.sockets import reset


async def doomed(local: Local) -> None:
    """The hypervisor sends data, and is reset with unread bytes."""
    local.deliver(b"never read")
    local.hypervisor.send(b"last words")
    reset(local.hypervisor)
    await turns()


@pytest.mark.parametrize("first", ["write", "watch", "read"])
async def test_end_after_a_reset_is_an_error_whoever_sees_the_reset_first(local: Local, first: str) -> None:
    await doomed(local)
    if first == "write":
        local.deliver(b"x")
    if first == "watch":
        local.pump.hang_up(failed=True)
    assert local.read(100) == b"last words"
    for _ in range(1 if first == "read" else 3):
        with pytest.raises(ConnectionResetError):
            local.read(100)
    assert len(local.owner.resets) == (first != "read")
    assert not local.pump.read_ended


async def test_reset_is_reported_once(local: Local) -> None:
    await doomed(local)
    for _ in range(3):
        local.deliver(b"x")
        local.pump.hang_up(failed=True)
    assert len(local.owner.resets) == len(local.owner.errors) == 1
    assert local.pump.broken


async def test_a_write_that_fails_after_a_clean_close_is_no_reset(local: Local) -> None:
    local.hypervisor.send(b"last words")
    local.hypervisor.close()
    await deliver_until_told(local)
    local.pump.hang_up(failed=True)
    assert local.owner.resets == []
    assert len(local.owner.errors) == 1
    assert local.read(100) == b"last words"
    assert local.read(100) == b""


async def test_clean_end_breaks_nothing(local: Local) -> None:
    local.hypervisor.shutdown(socket.SHUT_WR)
    local.pump.hang_up(failed=False)
    local.deliver(b"answer")
    assert local.take() == b"answer"
    assert not local.pump.broken
    assert not local.pump.left
    local.hypervisor.close()
    assert local.pump.left

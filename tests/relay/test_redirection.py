"""A probe arrives if connections are redirected; otherwise its error is reported."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.namespace import nft
from tests.support.waiting import until
from tunnel.host import guard_route
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.net.listener import Listener
from tunnel.net.sockets import reset
from tunnel.relay.address import RedirectAddress
from tunnel.relay.redirection import Redirection

ALIAS = RedirectAddress("127.0.1.2", 49152, 49215)

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network")]


class Door:
    """A listener that recognises the probes of ``redirection``, and keeps all other connections."""

    def __init__(self) -> None:
        self.redirection = Redirection(ALIAS)
        self.others: list[socket.socket] = []
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.listener = Listener(sock, self._accepted)

    def _accepted(self, sock: socket.socket) -> None:
        if self.redirection.is_own(sock):
            reset(sock)
        else:
            self.others.append(sock)


@pytest.fixture
async def door(network: None) -> AsyncIterator[Door]:
    """A guarded alias that is not redirected yet."""
    guard_route.install(ALIAS.host)
    entry = Door()
    yield entry
    entry.listener.close()
    for sock in entry.others:
        sock.close()


def redirect(port: int) -> None:
    RedirectTable("hosta").install([Redirect(ALIAS.host, ALIAS.first_port, ALIAS.last_port, port)])


async def test_redirected_probe_arrives(door: Door) -> None:
    redirect(door.port)
    assert await asyncio.gather(*(door.redirection.examine() for _ in range(5))) == [None] * 5
    assert door.others == []


async def test_clients_beside_a_probe_are_clients(door: Door) -> None:
    redirect(door.port)
    examining = asyncio.create_task(door.redirection.examine())
    with socket.create_connection((ALIAS.host, ALIAS.first_port), 10):
        assert await examining is None
        await until(lambda: len(door.others) == 1, "for the caller")


async def test_rejected_probe_is_reported(door: Door) -> None:
    redirect(door.port)
    nft("add table ip x; add chain ip x out { type filter hook output priority raw; }")
    nft("add rule ip x out notrack")
    reason = "a probe connection to 127.0.1.2:49152 did not arrive: Connection refused"
    assert await door.redirection.examine() == reason
    nft("delete table ip x")
    assert await door.redirection.examine() is None


async def test_unanswered_probe_is_reported(door: Door) -> None:
    reason = await door.redirection.examine(within=0.1)
    assert reason == "a probe connection to 127.0.1.2:49152 did not arrive"


async def test_probe_accepted_by_another_listener_has_not_arrived(door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        redirect(other.getsockname()[1])
        assert await door.redirection.examine(within=0.1) is not None


async def test_probe_without_a_descriptor_is_reported(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(door.port)

    def exhausted() -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", exhausted)
        reason = await door.redirection.examine()
    assert reason == "a probe connection to 127.0.1.2:49152 did not arrive: Too many open files"
    assert await door.redirection.examine() is None

"""An ingress for a redirected range: each client's port is kept, and there is no other way in."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.links import make_link
from tests.support.namespace import nft
from tests.support.users import NOBODY, acting_as
from tests.support.waiting import until
from tunnel.host import guard_route
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.host.reserved_ports import is_reserved
from tunnel.relay.address import RedirectAddress, TcpAddress, parse_target
from tunnel.relay.ingress import Ingress, IngressPlan
from tunnel.relay.link import Link

ALIAS = RedirectAddress("127.0.1.2", 49152, 49215)
in_network = pytest.mark.usefixtures("network")


class Opened:
    """Replaces ``Link.open``."""

    def __init__(self, link: Link) -> None:
        self.targets: list[str] = []
        self.sockets: list[socket.socket] = []
        link.open = self  # type: ignore[method-assign,assignment]  # a stub with the same signature

    async def __call__(
        self, sock: socket.socket, target: str, deadline: float, uid: int | None = None
    ) -> None:
        self.sockets.append(sock)
        self.targets.append(target)


class Door:
    """A running ingress to which the firewall redirects."""

    def __init__(self, *uids: int) -> None:
        self.link = make_link("hosta", "hostb")
        self.opened = Opened(self.link)
        self.ingress = Ingress(IngressPlan(ALIAS, None, uids or (os.geteuid(),)), self.link)
        self.port = self.ingress.port or 0

    @property
    def reasons(self) -> list[str]:
        return [incident.reason for incident in self.link.incidents]


@asynccontextmanager
async def door(*uids: int, rule: RedirectAddress = ALIAS) -> AsyncIterator[Door]:
    entry = Door(*uids)
    table = RedirectTable("hosta")
    table.install([Redirect(rule.host, rule.first_port, rule.last_port, entry.port)])
    try:
        yield entry
    finally:
        await entry.ingress.close()
        for sock in entry.opened.sockets:
            sock.close()


async def turned_away(address: tuple[str, int]) -> bool:
    with socket.socket() as caller:
        caller.setblocking(False)
        async with asyncio.timeout(60):
            try:
                await asyncio.get_running_loop().sock_connect(caller, address)
                await asyncio.get_running_loop().sock_recv(caller, 1)
            except ConnectionResetError:
                return True
    return False


@pytest.mark.root
@in_network
async def test_port_that_the_client_connected_to_is_kept() -> None:
    async with door() as entry:
        with (
            socket.create_connection((ALIAS.host, 49152), 10) as first,
            socket.create_connection((ALIAS.host, 49215), 10) as last,
        ):
            await until(lambda: len(entry.opened.sockets) == 2, "for the callers")
            assert entry.opened.targets == ["tcp:127.0.0.1:49152", "tcp:127.0.0.1:49215"]
            for number, caller in enumerate((first, last)):
                caller.send(b"hello")
                assert entry.opened.sockets[number].recv(5) == b"hello"
        assert (entry.ingress.accepted, entry.ingress.refused) == (2, 0)


@pytest.mark.root
@in_network
async def test_other_ports_and_addresses_are_not_redirected() -> None:
    async with door():
        for address in ((ALIAS.host, 49151), (ALIAS.host, 49216), ("127.0.1.3", 49152), ("127.0.0.1", 49152)):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 10)


@pytest.mark.root
@in_network
async def test_direct_connection_to_the_listener_is_refused() -> None:
    async with door() as entry:
        assert await turned_away(("127.0.0.1", entry.port))
        assert entry.reasons == [
            f"a connection to 127.0.0.1:{entry.port} was not redirected from redirect:127.0.1.2:49152-49215"
        ]
        assert not entry.opened.sockets


@pytest.mark.parametrize(
    "rule", [RedirectAddress("127.0.1.3", 49152, 49215), RedirectAddress("127.0.1.2", 49216, 49300)], ids=str
)
@pytest.mark.root
@in_network
async def test_connection_redirected_by_another_rule_is_refused(rule: RedirectAddress) -> None:
    async with door(rule=rule) as entry:
        assert await turned_away((rule.host, rule.first_port))
        assert entry.reasons == [
            f"a connection to {rule.host}:{rule.first_port} was not redirected from {ALIAS}"
        ]


@pytest.mark.root
@in_network
async def test_other_users_are_refused() -> None:
    async with door(NOBODY) as entry:
        assert await turned_away((ALIAS.host, 49152))
        assert entry.reasons == ["user root may not use this ingress (allowed: nobody)"]
        with acting_as(NOBODY):
            caller = socket.create_connection((ALIAS.host, 49152), 10)
        with caller:
            await until(lambda: entry.opened.sockets, "for the caller who may")


@pytest.mark.root
@in_network
async def test_disconnected_client_is_refused() -> None:
    async with door(0) as entry:
        for _ in range(5):
            socket.create_connection((ALIAS.host, 49152), 10).close()
        await until(lambda: entry.ingress.refused == 5, "for all to be turned away")
        assert set(entry.reasons) == {"the client disconnected before it could be identified"}


@pytest.mark.root
@in_network
async def test_without_conntrack_every_client_is_refused() -> None:
    async with door() as entry:
        nft("add table ip x; add chain ip x out { type filter hook output priority raw; }")
        nft("add rule ip x out notrack")
        assert await turned_away(("127.0.0.1", entry.port))
        assert "was not redirected" in entry.reasons[0]


@pytest.mark.root
@in_network
async def test_no_port_of_the_range_is_bound() -> None:
    """libvirt on the same host binds ports of its range to find a free one."""
    async with door() as entry:
        for port in (49152, 49183, 49215):
            socket.create_server(("0.0.0.0", port)).close()
        assert is_reserved(entry.port), "only root can bind it, even after close"


@pytest.mark.root
@in_network
async def test_ingress_with_one_port_behind_a_guard_is_redirected_too() -> None:
    """No program can listen on a guarded address, not even the daemon."""
    guard_route.install(ALIAS.host)
    link = make_link("hosta", "hostb")
    opened = Opened(link)
    target = parse_target("tcp:127.0.0.1:16509")
    plan = IngressPlan(TcpAddress(ALIAS.host, 16500), target, (0,), guarded=True)
    assert plan.alias == RedirectAddress(ALIAS.host, 16500, 16500)
    ingress = Ingress(plan, link)
    assert ingress.port is not None
    assert is_reserved(ingress.port)
    RedirectTable("hosta").install([Redirect(ALIAS.host, 16500, 16500, ingress.port)])
    with socket.create_connection((ALIAS.host, 16500), 10):
        await until(lambda: opened.sockets, "for the caller")
    assert opened.targets == [str(target)]
    await ingress.close()
    for sock in opened.sockets:
        sock.close()


@pytest.mark.root
@in_network
async def test_probe_is_not_counted_as_a_client() -> None:
    async with door() as entry:
        assert entry.ingress.redirection is not None
        for _ in range(3):
            assert await entry.ingress.redirection.examine() is None
        assert (entry.ingress.accepted, entry.ingress.refused) == (0, 0)
        assert not entry.opened.sockets
        assert entry.reasons == []
        with socket.create_connection((ALIAS.host, 49152), 10):
            await until(lambda: entry.opened.sockets, "for a caller after them")

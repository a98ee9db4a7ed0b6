"""A guarded alias can be redirected, and no listening socket can reply from it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.namespace import nft
from tests.support.users import NOBODY, acting_as
from tunnel.host import guard_route
from tunnel.host.nftables import Redirect, RedirectTable

ALIAS, PORT = "127.0.1.2", 49152
IP_FREEBIND = 15  # linux/in.h

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network")]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=60)


@pytest.fixture
def thieves() -> Iterator[list[socket.socket]]:
    """All ways for an unprivileged user to listen for what goes to the alias."""
    with ExitStack() as stack:
        with acting_as(NOBODY):
            everywhere = stack.enter_context(socket.create_server(("0.0.0.0", PORT)))
            both = stack.enter_context(
                socket.create_server(("::", PORT + 1), family=socket.AF_INET6, dualstack_ipv6=True)
            )
            foreign = stack.enter_context(socket.socket())
            foreign.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
            foreign.bind((ALIAS, PORT + 2))
            foreign.listen()
        yield [everywhere, both, foreign]


def answered(port: int) -> bool:
    try:
        socket.create_connection((ALIAS, port), 0.5).close()
    except TimeoutError:
        return False
    return True


def test_without_a_guard_any_listener_replies(thieves: list[socket.socket]) -> None:
    assert not guard_route.is_guarded(ALIAS)
    assert all(answered(PORT + number) for number in range(3)), "or the next test would prove nothing"


def test_with_a_guard_no_listener_replies(thieves: list[socket.socket]) -> None:
    guard_route.install(ALIAS)
    assert guard_route.is_guarded(ALIAS)
    assert not any(answered(PORT + number) for number in range(3))
    for thief in thieves:
        thief.setblocking(False)
        with pytest.raises(BlockingIOError):
            thief.accept()


def test_a_guarded_alias_cannot_be_bound() -> None:
    guard_route.install(ALIAS)
    with acting_as(NOBODY), pytest.raises(OSError, match="Cannot assign requested address"):
        socket.create_server((ALIAS, PORT))


def test_a_guard_outlives_every_change_of_the_firewall(thieves: list[socket.socket]) -> None:
    guard_route.install(ALIAS)
    RedirectTable("hosta").install([Redirect(ALIAS, PORT, PORT, 1)])
    nft("flush", "ruleset")
    assert guard_route.is_guarded(ALIAS)
    assert not answered(PORT)


def test_redirected_connections_work_with_a_guard() -> None:
    guard_route.install(ALIAS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        RedirectTable("hosta").install([Redirect(ALIAS, PORT, PORT, listener.getsockname()[1])])
        with socket.create_connection((ALIAS, PORT), 10) as caller:
            accepted, name = listener.accept()
            with accepted:
                assert name == caller.getsockname()
                for one, other in ((caller, accepted), (accepted, caller)):
                    one.sendall(b"there")
                    assert other.recv(5) == b"there"


def test_an_address_of_an_interface_is_not_guarded() -> None:
    guard_route.install(ALIAS)
    ip("address", "add", f"{ALIAS}/8", "dev", "lo")
    assert not guard_route.is_guarded(ALIAS)
    ip("address", "del", f"{ALIAS}/8", "dev", "lo")
    assert guard_route.is_guarded(ALIAS)


def test_install_and_remove_are_idempotent() -> None:
    for _ in range(2):
        guard_route.install(ALIAS)
    guard_route.install("127.0.1.3")
    ip("route", "add", "local", "127.0.1.4", "dev", "lo")
    assert guard_route.installed() == {ALIAS, "127.0.1.3"}
    for _ in range(2):
        guard_route.remove(ALIAS)
    assert guard_route.installed() == {"127.0.1.3"}
    assert not guard_route.is_guarded(ALIAS)


def test_only_users_who_may_change_routes_can_remove_a_guard() -> None:
    guard_route.install(ALIAS)
    with acting_as(NOBODY):
        assert guard_route.is_guarded(ALIAS), "queries need no privilege"
        for change in (guard_route.remove, guard_route.install):
            with pytest.raises(PermissionError):
                change(ALIAS)
    assert guard_route.is_guarded(ALIAS)

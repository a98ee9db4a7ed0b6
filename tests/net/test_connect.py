"""Connecting by name: order of addresses, timeouts, and the error when all fail."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.waiting import unexpected
from tunnel.errors import UnreachableError
from tunnel.net import connect as module
from tunnel.net.connect import connect

OUT_OF_REACH = "is the host up, and the port open in all firewalls on the path?"
ADVICE_REFUSED = "is mtunnel running there, with this port in host.listen?"

Named = Callable[..., None]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def port() -> int:
    """A port without a listener, on loopback addresses that no other test uses."""
    with socket.create_server(("127.77.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
async def named(monkeypatch: pytest.MonkeyPatch, port: int) -> Named:
    """Make every name resolve to these addresses, in this order."""

    def name(*addresses: str) -> None:
        async def resolve(host: str, port: int) -> list[Any]:
            families = [socket.AF_INET6 if ":" in a else socket.AF_INET for a in addresses]
            return [
                (family, socket.SOCK_STREAM, 6, "", (a, port, 0, 0) if ":" in a else (a, port))
                for family, a in zip(families, addresses, strict=True)
            ]

        monkeypatch.setattr(module, "_resolve", resolve)

    return name


def listen(stack: ExitStack, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    stack.enter_context(socket.create_server((address, port), family=family))


def be_silent(stack: ExitStack, address: str, port: int) -> None:
    """Make the kernel drop connections to this address: the backlog is full."""
    full = stack.enter_context(socket.socket())
    full.bind((address, port))
    full.listen(0)
    for _ in range(2):
        sock = stack.enter_context(socket.socket())
        sock.setblocking(False)
        sock.connect_ex((address, port))


def leave_alone(sock: socket.socket, address: str) -> None:
    sock.setblocking(False)


async def peer_of(port: int) -> str:
    with unexpected() as surprises, await connect("peer.example", port, leave_alone) as sock:
        name = str(sock.getpeername()[0])
    assert not surprises, "\n".join(surprises)
    return name


async def test_a_silent_first_address_costs_a_short_delay(named: Named, stack: ExitStack, port: int) -> None:
    be_silent(stack, "127.77.0.2", port)
    listen(stack, "127.77.0.3", port)
    named("127.77.0.2", "127.77.0.3")
    started = asyncio.get_running_loop().time()
    assert await peer_of(port) == "127.77.0.3"
    assert module.DELAY <= asyncio.get_running_loop().time() - started < module.TIMEOUT


async def test_an_address_that_refuses_costs_no_delay(
    named: Named, stack: ExitStack, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELAY", 3600)
    listen(stack, "127.77.0.3", port)
    named("127.77.0.2", "127.77.0.3")
    assert await peer_of(port) == "127.77.0.3"


async def test_the_last_unusable_address_is_tried_last(named: Named, stack: ExitStack, port: int) -> None:
    for last in (2, 3, 4):
        listen(stack, f"127.77.0.{last}", port)
    named("127.77.0.2", "127.77.0.3", "127.77.0.4")
    failed: dict[str, float] = {}
    tried = []
    for now in range(4):
        with await connect("peer.example", port, leave_alone, failed) as sock:
            tried.append(sock.getpeername()[0])
        failed[tried[-1]] = now
    assert tried == ["127.77.0.2", "127.77.0.3", "127.77.0.4", "127.77.0.2"]


async def test_families_alternate(named: Named, stack: ExitStack, port: int) -> None:
    """However many addresses of one family are silent, the other family is tried second."""
    for last in (2, 3, 4):
        be_silent(stack, f"127.77.0.{last}", port)
    listen(stack, "::1", port)
    named("127.77.0.2", "127.77.0.3", "127.77.0.4", "::1")
    assert await peer_of(port) == "::1"


async def test_each_address_has_its_own_timeout(
    named: Named, stack: ExitStack, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    be_silent(stack, "127.77.0.2", port)
    be_silent(stack, "127.77.0.3", port)
    listen(stack, "127.77.0.4", port)
    named("127.77.0.2", "127.77.0.3", "127.77.0.4")
    assert await peer_of(port) == "127.77.0.4"


async def test_every_address_is_named_with_its_error(
    named: Named, stack: ExitStack, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    be_silent(stack, "127.77.0.2", port)
    named("127.77.0.2", "::1")
    with pytest.raises(UnreachableError) as raised:
        await peer_of(port)
    message = str(raised.value)
    assert message.startswith("all addresses failed (")
    assert f"127.77.0.2:{port}: Connection timed out" in message
    assert f"[::1]:{port}: Connection refused" in message
    assert message.endswith(f"); {ADVICE_REFUSED}")


@pytest.mark.parametrize("silent", [True, False])
async def test_the_error_of_a_single_address_is_short(
    stack: ExitStack, port: int, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    if silent:
        be_silent(stack, "127.77.0.2", port)
    with pytest.raises(UnreachableError) as raised:
        await connect("127.77.0.2", port, leave_alone)
    late = f"timed out after 0.1 s; {OUT_OF_REACH}"
    assert str(raised.value) == (late if silent else f"Connection refused; {ADVICE_REFUSED}")


async def test_a_socket_that_cannot_be_prepared_is_one_error_of_several(
    named: Named, stack: ExitStack, port: int
) -> None:
    prepared: list[str] = []

    def prepare(sock: socket.socket, address: str) -> None:
        prepared.append(address)
        sock.setblocking(False)
        if address == "127.77.0.2":
            raise OSError(errno.EADDRNOTAVAIL, "")

    named("127.77.0.2", "127.77.0.3")
    with pytest.raises(UnreachableError, match=rf"127\.77\.0\.2:{port}: Cannot assign requested address"):
        await connect("peer.example", port, prepare)
    listen(stack, "127.77.0.3", port)
    with await connect("peer.example", port, prepare) as sock:
        assert sock.getpeername()[0] == "127.77.0.3"
    assert prepared == ["127.77.0.2", "127.77.0.3"] * 2


async def test_running_out_of_descriptors_is_reported(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    def exhausted(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "")

    substitute = SimpleNamespace(socket=exhausted, SOCK_STREAM=socket.SOCK_STREAM)
    monkeypatch.setattr(module, "socket", substitute)
    with pytest.raises(UnreachableError, match=r"^Too many open files$"):
        await connect("127.77.0.1", port, leave_alone)


async def test_a_resolver_that_hangs_times_out(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", hang)
    with pytest.raises(UnreachableError, match=r"^timed out after 0\.05 s resolving the name$"):
        await connect("peer.example", port, leave_alone)


async def test_a_name_without_addresses(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    async def find_nothing(*_: object, **__: object) -> list[object]:
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find_nothing)
    with pytest.raises(UnreachableError, match="the name has no address"):
        await connect("peer.example", port, leave_alone)


async def test_a_duplicate_address_is_tried_once(port: int) -> None:
    found = await module._resolve("127.77.0.1", port)
    assert len(found) == len(set(found)) == 1


async def test_cancelled_attempts_leave_no_socket(named: Named, stack: ExitStack, port: int) -> None:
    made: list[socket.socket] = []

    def prepare(sock: socket.socket, address: str) -> None:
        made.append(sock)
        sock.setblocking(False)

    be_silent(stack, "127.77.0.2", port)
    be_silent(stack, "127.77.0.3", port)
    named("127.77.0.2", "127.77.0.3")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * module.DELAY):
            await connect("peer.example", port, prepare)
    assert len(made) == 2
    assert all(sock.fileno() == -1 for sock in made)

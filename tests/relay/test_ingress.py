"""An ingress: which users may connect, order, limits, and that no failure stops it for other clients."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from tests.support.links import make_link
from tests.support.waiting import turns, until
from tunnel.errors import UsageError
from tunnel.host import users
from tunnel.net.listener import Listener
from tunnel.net.token_bucket import Rate
from tunnel.relay import ingress as module
from tunnel.relay.address import ListenAddress, TcpAddress, UnixAddress, parse_target
from tunnel.relay.incidents import MOST_OF_A_KIND, IncidentKind
from tunnel.relay.ingress import Ingress, IngressPlan
from tunnel.relay.link import Link
from tunnel.relay.timeouts import Timeouts

ME = os.geteuid()
QUICK = Timeouts(refusal=0.01)
TARGET = parse_target("tcp:127.0.0.1:49152")

MANY = 8 * MOST_OF_A_KIND
"""Clients: many times the number of incidents kept of one kind."""


class Opened:
    """Replaces ``Link.open``: keeps the sockets, and can be made to wait or to fail."""

    def __init__(self, link: Link) -> None:
        self.sockets: list[socket.socket] = []
        self.targets: list[str] = []
        self.uids: list[int | None] = []
        self.waiting = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.faults: list[Exception] = []
        link.open = self  # type: ignore[method-assign,assignment]  # a stub with the same signature

    async def __call__(
        self, sock: socket.socket, target: str, deadline: float, uid: int | None = None
    ) -> None:
        self.waiting += 1
        await self.may_go_on.wait()
        self.waiting -= 1
        if self.faults:
            raise self.faults.pop()
        self.sockets.append(sock)
        self.targets.append(target)
        self.uids.append(uid)


class Door:
    """A running ingress and its clients."""

    def __init__(self, listen: ListenAddress, uids: frozenset[int], timeouts: Timeouts = QUICK) -> None:
        self.link = make_link("hosta", "hostb")
        self.opened = Opened(self.link)
        self.ingress = Ingress(IngressPlan(listen, TARGET, uids, timeouts=timeouts), self.link)
        self.callers: list[socket.socket] = []
        self._listen = listen

    def call(self) -> socket.socket:
        """Connect; the backlog accepts it immediately."""
        match self._listen:
            case UnixAddress(path):
                sock = socket.socket(socket.AF_UNIX)
                self.callers.append(sock)
                sock.connect(path)
            case TcpAddress(host, port):
                sock = socket.create_connection((host, port))
                self.callers.append(sock)
        sock.setblocking(False)
        return sock

    @property
    def reasons(self) -> list[str]:
        return [incident.reason for incident in self.link.incidents]


@asynccontextmanager
async def door(listen: ListenAddress, *uids: int, timeouts: Timeouts = QUICK) -> AsyncIterator[Door]:
    opened = Door(listen, frozenset(uids or {ME}), timeouts)
    try:
        yield opened
    finally:
        await opened.ingress.close()
        for sock in (*opened.callers, *opened.opened.sockets):
            sock.close()


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp: Path) -> ListenAddress:
    """A listen address."""
    if request.param == "unix":
        return UnixAddress(f"{tmp}/entry")
    with socket.create_server(("127.0.0.1", 0)) as server:
        return TcpAddress("127.0.0.1", server.getsockname()[1])


async def ended(sock: socket.socket) -> bool:
    """Whether the client was refused: a reset, or EOF on a unix socket."""
    async with asyncio.timeout(60):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        except ConnectionResetError:
            return True


async def test_allowed_client_is_passed_to_the_link(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        caller = entry.call()
        await until(lambda: entry.opened.sockets, "for the caller")
        assert (entry.opened.targets, entry.opened.uids) == (["tcp:127.0.0.1:49152"], [ME])
        caller.send(b"hello")
        assert entry.opened.sockets[0].recv(5) == b"hello"
        assert (entry.ingress.accepted, entry.ingress.refused) == (1, 0)


async def test_other_users_are_refused_and_receive_nothing(listen: ListenAddress) -> None:
    async with door(listen, 4_000_000_000, 4_000_000_001) as entry:
        assert await ended(entry.call())
        assert (entry.ingress.accepted, entry.ingress.refused) == (0, 1)
        assert entry.reasons == [
            f"user {pwd.getpwuid(ME).pw_name} may not use this ingress (allowed: 4000000000, 4000000001)",
        ]
        assert not entry.opened.sockets


async def test_many_refusals_are_one_incident(listen: ListenAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    async with door(listen, 4_000_000_000) as entry:
        monkeypatch.delattr(pwd, "getpwuid")  # no lookup, which may be slow
        entry.link.note(IncidentKind.LANE_LOST, "a reason to be kept")
        callers = [entry.call() for _ in range(MANY)]
        assert all([await ended(caller) for caller in callers])
        [kept, refused] = entry.link.incidents
        assert kept.reason == "a reason to be kept"
        assert refused.count == entry.ingress.refused == MANY


async def test_user_names_are_read_before_the_first_refusal(
    tmp_path: Path, listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "PASSWD", tmp_path / "passwd")
    monkeypatch.setattr(users, "_looked_up", {4_000_000_000: "alice"})
    (tmp_path / "passwd").write_text(f"bob:x:{ME}:{ME}::/:/bin/sh\n")
    users.local_names.cache_clear()
    try:
        async with door(listen, 4_000_000_000) as entry:
            (tmp_path / "passwd").unlink()
            assert await ended(entry.call())
            assert entry.reasons == ["user bob may not use this ingress (allowed: alice)"]
    finally:
        users.local_names.cache_clear()


async def test_refusals_are_logged_with_the_uid(listen: ListenAddress) -> None:
    with structlog.testing.capture_logs() as said:
        async with door(listen, 4_000_000_000) as entry:
            assert await ended(entry.call())
            await until(lambda: said, "for the line")
    assert [(each["event"], each["uid"]) for each in said] == [("connection refused", ME)]


async def test_listener_is_informed_of_refused_clients(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they take only a small part of the loop's time, however often they connect."""
    told: list[bool] = []
    monkeypatch.setattr(Listener, "refused", lambda self: told.append(True))
    async with door(listen) as entry:
        for _ in range(5):
            entry.call()
        await until(lambda: len(entry.opened.sockets) == 5, "for the callers")
        assert told == []
    async with door(listen, 4_000_000_000) as entry:
        callers = [entry.call() for _ in range(5)]
        assert all([await ended(caller) for caller in callers])
        assert len(told) == 5


async def test_user_that_exceeds_the_rate_is_refused_for_a_while(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPENED", Rate(3, 1e-6))
    async with door(listen) as entry:
        for _ in range(3):
            entry.call()
        await until(lambda: len(entry.opened.sockets) == 3, "for as many as are allowed")
        assert await ended(entry.call())
        assert "exceeds the connection rate: a burst of 3, then" in entry.reasons[-1]
        entry.ingress._rates.clear()
        entry.call()
        await until(lambda: len(entry.opened.sockets) == 4, "for the one later")


async def test_clients_are_passed_on_in_the_order_of_arrival(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        for number in range(40):
            entry.call().send(bytes([number]))
        await until(lambda: len(entry.opened.sockets) == 40, "for all callers")
        assert [sock.recv(1)[0] for sock in entry.opened.sockets] == list(range(40))


async def test_too_many_waiting_clients_are_refused(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    async with door(listen) as entry:
        entry.opened.may_go_on.clear()
        first = entry.call()
        await until(lambda: entry.opened.waiting, "for the first to be let in")
        waiting = [entry.call() for _ in range(3)]
        assert await ended(entry.call())
        assert entry.reasons == ["3 connections are already waiting"]
        entry.opened.may_go_on.set()
        await until(lambda: len(entry.opened.sockets) == len([first, *waiting]), "for those that wait")


async def test_failure_of_the_link_is_reported_and_the_next_client_served(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        entry.opened.faults.append(UsageError("no link today"))
        assert await ended(entry.call())
        assert entry.reasons == ["no link today"]
        entry.call()
        await until(lambda: entry.opened.sockets, "for the next caller")


async def test_bug_does_not_stop_the_ingress(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        entry.opened.faults.append(ZeroDivisionError("a bug"))
        assert await ended(entry.call())
        assert entry.reasons == ["internal error: ZeroDivisionError('a bug')"]
        entry.call()
        await until(lambda: entry.opened.sockets, "for the next caller")


async def test_closing_resets_waiting_clients(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        entry.opened.may_go_on.clear()
        callers = [entry.call() for _ in range(3)]
        await until(lambda: entry.ingress._queue.qsize() == 2, "for them to wait")
        await entry.ingress.close()
        assert [await ended(caller) for caller in callers] == [True] * 3
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            entry.call()


async def test_deadline_of_a_client_starts_at_its_arrival(listen: ListenAddress) -> None:
    async with door(listen, timeouts=Timeouts(link=0.1, refusal=0.0)) as entry:
        del entry.link.open  # the stub: now the link's own, and the link is down
        assert await ended(entry.call())
        assert entry.reasons == ["no link with hostb"]


async def test_disconnected_client_is_refused(tmp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = TcpAddress("127.0.0.1", server.getsockname()[1])
    async with door(address, 0, ME) as entry:
        for _ in range(5):
            entry.call().close()
        await until(lambda: entry.ingress.refused == 5, "for all to be turned away")
        assert set(entry.reasons) == {"the client disconnected before it could be identified"}


@pytest.mark.root
@pytest.mark.parametrize(
    ("uids", "mode", "owner"),
    [
        ((0,), 0o600, 0),
        ((0, 4001), 0o600, 4001),
        ((4001,), 0o600, 4001),
        ((0, 4001, 4002), 0o666, 0),  # more than a mode can express: every connection is checked
    ],
)
async def test_mode_and_owner_of_the_socket_file(
    tmp: Path, uids: tuple[int, ...], mode: int, owner: int
) -> None:
    async with door(UnixAddress(f"{tmp}/entry"), *uids):
        status = (tmp / "entry").stat()
        assert (status.st_mode & 0o777, status.st_uid) == (mode, owner)
    assert not (tmp / "entry").exists()


@pytest.mark.root
async def test_socket_in_another_users_directory_is_not_chowned(tmp: Path) -> None:
    """Between bind and chown that user could replace it."""
    os.chown(tmp, 4001, 4001)
    async with door(UnixAddress(f"{tmp}/entry"), 0, 4001):
        status = (tmp / "entry").stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o666, 0)


async def test_missing_directory_is_a_usage_error(tmp: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on unix:.*: its directory does not exist"):
        Door(UnixAddress(f"{tmp}/none/entry"), frozenset({ME}))


async def test_taken_port_is_a_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(UsageError, match="in use by another process; is mtunnel already running"):
            Door(TcpAddress("127.0.0.1", server.getsockname()[1]), frozenset({ME}))
        await turns(1)


async def test_clients_for_several_sessions_do_not_wait_for_each_other(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of those to one target is kept elsewhere."""
    monkeypatch.setattr(Link, "parallel", True)
    async with door(listen) as opened:
        opened.opened.may_go_on.clear()
        callers = [opened.call() for _ in range(3)]
        await until(lambda: opened.opened.waiting == 3, "for all of them")
        opened.opened.may_go_on.set()
        await until(lambda: opened.ingress.accepted == 3, "for them to be let in")
        assert len(callers) == 3


async def test_clients_that_wait_for_several_sessions_are_reset_on_close(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "parallel", True)
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    async with door(listen) as opened:
        opened.opened.may_go_on.clear()
        callers = [opened.call() for _ in range(4)]
        await until(lambda: opened.opened.waiting == 2, "for those that may wait there")
        await opened.ingress.close()
        for caller in callers[:2]:
            assert await ended(caller)

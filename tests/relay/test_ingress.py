"""An ingress: who comes in, in which order, how many may wait, and that nothing closes it for the others."""

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
from tunnel.relay.incidents import MOST_OF_A_KIND
from tunnel.relay.ingress import Ingress, IngressPlan
from tunnel.relay.link import Link

ME = os.geteuid()
TARGET = parse_target("tcp:127.0.0.1:49152")

MANY = 8 * MOST_OF_A_KIND
"""Callers: many times as many as incidents of a kind are kept."""


class Opened:
    """In place of ``Link.open``: keeps the sockets, and can be told to wait or to fail."""

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
    """A running ingress and its callers."""

    def __init__(self, listen: ListenAddress, uids: frozenset[int]) -> None:
        self.link = make_link("hosta", "hostb")
        self.opened = Opened(self.link)
        self.ingress = Ingress(IngressPlan(listen, TARGET, uids), self.link)
        self.callers: list[socket.socket] = []
        self._listen = listen

    def call(self) -> socket.socket:
        """Connect; the backlog takes it at once."""
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
async def door(listen: ListenAddress, *uids: int) -> AsyncIterator[Door]:
    opened = Door(listen, frozenset(uids or {ME}))
    try:
        yield opened
    finally:
        await opened.ingress.close()
        for sock in (*opened.callers, *opened.opened.sockets):
            sock.close()


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp: Path) -> ListenAddress:
    """An address to listen on."""
    if request.param == "unix":
        return UnixAddress(f"{tmp}/entry")
    with socket.create_server(("127.0.0.1", 0)) as server:
        return TcpAddress("127.0.0.1", server.getsockname()[1])


async def ended(sock: socket.socket) -> bool:
    """Whether the caller was turned away: a reset, or on a unix socket an end."""
    async with asyncio.timeout(60):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        except ConnectionResetError:
            return True


async def test_allowed_caller_is_passed_on(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        caller = entry.call()
        await until(lambda: entry.opened.sockets, "for the caller")
        assert (entry.opened.targets, entry.opened.uids) == (["tcp:127.0.0.1:49152"], [ME])
        caller.send(b"hello")
        assert entry.opened.sockets[0].recv(5) == b"hello"
        assert (entry.ingress.accepted, entry.ingress.refused) == (1, 0)


async def test_other_users_are_turned_away_and_hear_nothing(listen: ListenAddress) -> None:
    async with door(listen, 4_000_000_000, 4_000_000_001) as entry:
        assert await ended(entry.call())
        assert (entry.ingress.accepted, entry.ingress.refused) == (0, 1)
        assert entry.reasons == [
            f"user {pwd.getpwuid(ME).pw_name} may not use this ingress (4000000000, 4000000001 may)",
        ]
        assert not entry.opened.sockets


async def test_other_users_in_great_number_are_one_incident(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door(listen, 4_000_000_000) as entry:
        monkeypatch.delattr(pwd, "getpwuid")  # no look-up, which may take long
        entry.link.note("lane lost", "a reason to be kept")
        for _ in range(MANY):
            assert await ended(entry.call())
        [kept, refused] = entry.link.incidents
        assert kept.reason == "a reason to be kept"
        assert refused.count == entry.ingress.refused == MANY


async def test_names_are_known_before_anybody_is_refused(
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
            assert entry.reasons == ["user bob may not use this ingress (alice may)"]
    finally:
        users.local_names.cache_clear()


async def test_refusals_are_logged_with_the_uid(listen: ListenAddress) -> None:
    with structlog.testing.capture_logs() as said:
        async with door(listen, 4_000_000_000) as entry:
            assert await ended(entry.call())
            await until(lambda: said, "for the line")
    assert [(each["event"], each["uid"]) for each in said] == [("connection refused", ME)]


async def test_listener_is_told_of_those_who_were_not_let_in(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they take a small part of the loop's time, however often they come."""
    told: list[bool] = []
    monkeypatch.setattr(Listener, "refused", lambda self: told.append(True))
    async with door(listen) as entry:
        for _ in range(5):
            entry.call()
        await until(lambda: len(entry.opened.sockets) == 5, "for the callers")
        assert told == []
    async with door(listen, 4_000_000_000) as entry:
        for _ in range(5):
            assert await ended(entry.call())
        assert len(told) == 5


async def test_a_user_who_connects_too_often_is_turned_away_for_a_while(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPENED", Rate(3, 1e-6))
    async with door(listen) as entry:
        for _ in range(3):
            entry.call()
        await until(lambda: len(entry.opened.sockets) == 3, "for as many as are allowed")
        assert await ended(entry.call())
        assert "connects too often: at most 3 at once" in entry.reasons[-1]
        entry.ingress._rates.clear()
        entry.call()
        await until(lambda: len(entry.opened.sockets) == 4, "for the one later")


async def test_callers_are_passed_on_in_the_order_they_came(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        for number in range(40):
            entry.call().send(bytes([number]))
        await until(lambda: len(entry.opened.sockets) == 40, "for all callers")
        assert [sock.recv(1)[0] for sock in entry.opened.sockets] == list(range(40))


async def test_too_many_waiting_callers_are_turned_away(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    async with door(listen) as entry:
        entry.opened.may_go_on.clear()
        first = entry.call()
        await until(lambda: entry.opened.waiting, "for the first to be let in")
        waiting = [entry.call() for _ in range(3)]
        assert await ended(entry.call())
        assert entry.reasons == ["3 connections are waiting already"]
        entry.opened.may_go_on.set()
        await until(lambda: len(entry.opened.sockets) == len([first, *waiting]), "for those that wait")


async def test_failure_of_the_link_is_told_and_the_next_caller_served(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        entry.opened.faults.append(UsageError("no link today"))
        assert await ended(entry.call())
        assert entry.reasons == ["no link today"]
        entry.call()
        await until(lambda: entry.opened.sockets, "for the next caller")


async def test_bug_does_not_close_the_door(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        entry.opened.faults.append(ZeroDivisionError("a bug"))
        assert await ended(entry.call())
        assert entry.reasons == ["a fault of this daemon: ZeroDivisionError('a bug')"]
        entry.call()
        await until(lambda: entry.opened.sockets, "for the next caller")


async def test_closing_turns_away_who_waits(listen: ListenAddress) -> None:
    async with door(listen) as entry:
        entry.opened.may_go_on.clear()
        callers = [entry.call() for _ in range(3)]
        await until(lambda: entry.ingress._queue.qsize() == 2, "for them to wait")
        await entry.ingress.close()
        assert [await ended(caller) for caller in callers] == [True] * 3
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            entry.call()


async def test_caller_gets_a_deadline_from_when_it_came(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINK_DEADLINE", 0.1)
    async with door(listen) as entry:
        del entry.link.open  # the stub: now it is the link's own, which is not up
        assert await ended(entry.call())
        assert entry.reasons == ["no link with hostb"]


async def test_hung_up_caller_is_nobody(tmp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = TcpAddress("127.0.0.1", server.getsockname()[1])
    async with door(address, 0, ME) as entry:
        for _ in range(5):
            entry.call().close()
        await until(lambda: entry.ingress.refused == 5, "for all to be turned away")
        assert set(entry.reasons) == {"the caller hung up before it could be identified"}


@pytest.mark.root
@pytest.mark.parametrize(
    ("uids", "mode", "owner"),
    [
        ((0,), 0o600, 0),
        ((0, 4001), 0o600, 4001),
        ((4001,), 0o600, 4001),
        ((0, 4001, 4002), 0o666, 0),  # more than a mode can say: every connection is judged
    ],
)
async def test_socket_file_says_who_may_use_it(
    tmp: Path, uids: tuple[int, ...], mode: int, owner: int
) -> None:
    async with door(UnixAddress(f"{tmp}/entry"), *uids):
        status = (tmp / "entry").stat()
        assert (status.st_mode & 0o777, status.st_uid) == (mode, owner)
    assert not (tmp / "entry").exists()


@pytest.mark.root
async def test_socket_in_another_users_directory_is_given_to_nobody(tmp: Path) -> None:
    """Between bind and chown he could put something else in its place."""
    os.chown(tmp, 4001, 4001)
    async with door(UnixAddress(f"{tmp}/entry"), 0, 4001):
        status = (tmp / "entry").stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o666, 0)


async def test_missing_directory_is_a_usage_error(tmp: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on unix:.*: its directory does not exist"):
        Door(UnixAddress(f"{tmp}/none/entry"), frozenset({ME}))


async def test_taken_port_is_a_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(UsageError, match="it is in use by another process"):
            Door(TcpAddress("127.0.0.1", server.getsockname()[1]), frozenset({ME}))
        await turns(1)


async def test_callers_for_several_sessions_do_not_wait_for_each_other(
    listen: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has to wait for whom, among those to one target, is decided behind the ingress."""
    monkeypatch.setattr(Link, "parallel", True)
    async with door(listen) as opened:
        opened.opened.may_go_on.clear()
        callers = [opened.call() for _ in range(3)]
        await until(lambda: opened.opened.waiting == 3, "for all of them")
        opened.opened.may_go_on.set()
        await until(lambda: opened.ingress.accepted == 3, "for them to be let in")
        assert len(callers) == 3


async def test_callers_that_wait_for_several_sessions_are_reset_at_the_end(
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

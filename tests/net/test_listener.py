"""Listening sockets: errors of binding, stale sockets, and accepting that continues after errors."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.waiting import turns, until
from tunnel.errors import UsageError
from tunnel.net import listener
from tunnel.net.listener import Listener, bind_tcp, bind_unix, is_configured, is_served

pytestmark = pytest.mark.usefixtures("quiet_loop")

EXHAUSTED = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]


def listening(path: Path) -> socket.socket:
    return bind_unix(str(path), 0o600)


def leave_stale(path: Path) -> None:
    """A socket file whose process is gone."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


class Accepted:
    """Keeps accepted connections, and closes them all in the end."""

    def __init__(self) -> None:
        self.socks: list[socket.socket] = []

    def __call__(self, sock: socket.socket) -> None:
        self.socks.append(sock)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


class Faulty(socket.socket):
    """A listening socket whose ``accept`` fails once with each of ``errors``."""

    errors: tuple[int, ...] = ()

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            number, *rest = self.errors
            self.errors = tuple(rest)
            raise OSError(number, os.strerror(number))
        return super().accept()


# Binding.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_bound_port_accepts_connections(host: str) -> None:
    with bind_tcp(host, 0) as sock, socket.create_connection(sock.getsockname()[:2], 5):
        accepted, _ = sock.accept()
        accepted.close()


def test_the_unspecified_ipv6_address_accepts_ipv4_too() -> None:
    with bind_tcp("::", 0) as sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), 5):
        accepted, _ = sock.accept()
        accepted.close()


@pytest.mark.root
def test_a_link_local_address_is_bound_on_its_interface(link_local: str) -> None:
    with bind_tcp(link_local, 0) as sock:
        assert sock.getsockname()[3] == socket.if_nametoindex("lo")
        with socket.socket(socket.AF_INET6) as caller:
            caller.settimeout(60)
            caller.connect(sock.getsockname())
            accepted, _ = sock.accept()
            accepted.close()


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on fe80::7%none9 .*: this host has no network int"):
        bind_tcp("fe80::7%none9", 0)


def test_a_port_in_use_is_named_with_what_to_check() -> None:
    with bind_tcp("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1 port {port}.*another process.*already running"):
            bind_tcp("127.0.0.1", port)


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(UsageError, match="this host has no such address"):
        bind_tcp("192.0.2.1", 16515)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_may_be_configured_later(host: str) -> None:
    with bind_tcp(host, 0, absent=True) as sock:
        assert sock.getsockname()[0] == host
    assert not is_configured(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.2", "0.0.0.0", "::", "::1"])
def test_what_an_interface_has_is_configured(host: str) -> None:
    assert is_configured(host)


def test_a_port_in_time_wait_can_be_bound() -> None:
    with bind_tcp("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            accepted, _ = sock.accept()
            accepted.close()  # first: so TIME_WAIT is ours
            assert client.recv(1) == b""
    bind_tcp("127.0.0.1", port).close()


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_unix_socket_has_its_mode(tmp: Path, mode: int) -> None:
    with bind_unix(str(tmp / "s"), mode):
        assert stat.S_IMODE((tmp / "s").stat().st_mode) == mode


def test_a_unix_socket_has_its_mode_before_it_is_visible(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change by path could apply to a file that another user has put there meanwhile."""
    for name in ("chmod", "lchmod", "fchmodat"):
        monkeypatch.setattr(os, name, pytest.fail, raising=False)
    with bind_unix(str(tmp / "s"), 0o666):
        assert stat.S_IMODE((tmp / "s").stat().st_mode) == 0o666


@pytest.mark.root
def test_a_unix_socket_may_have_another_owner(tmp: Path) -> None:
    with bind_unix(str(tmp / "s"), 0o600, 4001):
        assert (tmp / "s").stat().st_uid == 4001


def test_a_symbolic_link_is_no_stale_socket(tmp: Path) -> None:
    leave_stale(tmp / "real")
    (tmp / "s").symlink_to(tmp / "real")
    with pytest.raises(UsageError, match="cannot listen on"):
        listening(tmp / "s")
    assert (tmp / "real").exists()


def test_checking_whether_a_socket_is_served_does_not_connect(tmp: Path) -> None:
    assert not is_served(str(tmp / "s"))
    with listening(tmp / "s") as server:
        assert is_served(str(tmp / "s"))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not is_served(str(tmp / "s"))


def test_the_umask_is_restored(tmp: Path) -> None:
    before = os.umask(0o027)
    try:
        listening(tmp / "s").close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(tmp: Path) -> None:
    leave_stale(tmp / "s")
    with listening(tmp / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp / "s"))


def test_a_socket_in_use_is_not_replaced(tmp: Path) -> None:
    with listening(tmp / "s") as first:
        inode = (tmp / "s").stat().st_ino
        with pytest.raises(UsageError, match="in use by another process"):
            listening(tmp / "s")
        assert (tmp / "s").stat().st_ino == inode
        first.settimeout(60)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp / "s"))


def test_a_socket_with_a_full_backlog_is_not_replaced(tmp: Path) -> None:
    """With a full backlog connecting fails with EAGAIN: the socket is not stale."""
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as waiting:
        sock.bind(str(tmp / "s"))
        sock.listen(0)
        waiting.connect(str(tmp / "s"))
        with pytest.raises(UsageError, match="in use by another process"):
            listening(tmp / "s")
        assert (tmp / "s").exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file"])
def test_other_files_are_never_removed(tmp: Path, kind: str) -> None:
    path, real = tmp / "s", tmp / "real"
    real.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(real)
    with pytest.raises(UsageError, match="cannot listen on"):
        listening(path)
    assert path.exists()
    assert real.read_text() == "precious"


def test_a_missing_directory_is_named(tmp: Path) -> None:
    with pytest.raises(UsageError, match="its directory does not exist"):
        listening(tmp / "missing" / "s")


def test_a_path_that_is_too_long_is_refused(tmp: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        listening(tmp / ("x" * 120))


# Accepting.


async def test_connections_are_passed_in_order_of_arrival(tmp: Path) -> None:
    sink = Accepted()
    bound = bind_tcp("127.0.0.1", 0)
    address = bound.getsockname()
    served = Listener(bound, sink)
    clients = [socket.create_connection(address, 5) for _ in range(40)]
    await until(lambda: len(sink.socks) == 40)
    assert [sock.getpeername() for sock in sink.socks] == [client.getsockname() for client in clients]
    assert not any(sock.getblocking() for sock in sink.socks)
    served.close()
    sink.close()
    for client in clients:
        client.close()


@pytest.mark.parametrize("number", [*EXHAUSTED, errno.EPROTO, errno.EPERM])
async def test_accepting_continues_after_an_error(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.02)
    sink = Accepted()
    faulty = Faulty(socket.AF_UNIX)
    faulty.bind(str(tmp / "s"))
    faulty.listen()
    faulty.errors = (number, number)
    served = Listener(faulty, sink)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp / "s"))
        await until(lambda: sink.socks)
    served.close()
    sink.close()


async def test_accepting_continues_after_descriptors_ran_out(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.02)
    sink = Accepted()
    served = Listener(listening(tmp / "s"), sink)
    client = socket.socket(socket.AF_UNIX)
    free = Accepted()
    pauses = asyncio.Event()
    monkeypatch.setattr(listener.log, "warning", lambda *args, **kwargs: pauses.set())
    with few_descriptors():
        _fill(free)
        client.connect(str(tmp / "s"))
        async with asyncio.timeout(60):
            await pauses.wait()
        assert sink.socks == []
        free.close()
    await until(lambda: sink.socks)
    client.close()
    served.close()
    sink.close()


def _fill(into: Accepted) -> None:
    """Use up all descriptors."""
    with suppress(OSError):
        while True:
            into(socket.socket(socket.AF_UNIX))


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Allow this process hardly more descriptors than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connected(path: Path, count: int) -> list[socket.socket]:
    clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    for client in clients:
        client.connect(str(path))
    return clients


async def test_iteration_with_a_refusal_is_followed_by_a_pause(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So refusals take a bounded share of the time; meanwhile clients wait in the backlog."""
    monkeypatch.setattr(listener, "SHORTEST_REST", 1000.0)
    sink = Accepted()

    def take(sock: socket.socket) -> None:
        sink(sock)
        if len(sink.socks) == 2:
            served.refused()

    served = Listener(listening(tmp / "s"), take)
    clients = connected(tmp / "s", 1)
    await until(lambda: len(sink.socks) == 1, "for the one before")
    clients += connected(tmp / "s", 3)
    await until(lambda: len(sink.socks) == 4, "for all of that iteration")
    clients += connected(tmp / "s", 1)
    await turns()
    assert len(sink.socks) == 4, "it pauses"
    served.close()
    for sock in (*clients, *sink.socks):
        sock.close()


async def test_pause_is_proportional_to_the_time_of_refusals(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(Listener, "_rest", lambda self, seconds: rests.append(seconds))
    sink = Accepted()

    def refuse(sock: socket.socket) -> None:
        sink(sock)
        served.refused()

    served = Listener(listening(tmp / "s"), refuse)
    monkeypatch.setattr(listener, "SHARE_OF_REFUSALS", 1e-9)
    clients = connected(tmp / "s", 1)
    await until(lambda: len(rests) == 1)
    assert rests[0] > 1000, "a billion times as long as it took"
    monkeypatch.setattr(listener, "SHARE_OF_REFUSALS", 1.0)
    clients += connected(tmp / "s", 1)
    await until(lambda: len(rests) == 2)
    assert rests[1] == listener.SHORTEST_REST
    served.close()
    for sock in (*clients, *sink.socks):
        sock.close()


async def test_many_refused_connections_are_all_accepted_first(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "SHORTEST_REST", 0.001)
    sink = Accepted()

    def refuse(sock: socket.socket) -> None:
        sink(sock)
        served.refused()

    served = Listener(listening(tmp / "s"), refuse)
    clients = connected(tmp / "s", 100)
    await until(lambda: len(sink.socks) == 100)
    served.close()
    for sock in (*clients, *sink.socks):
        sock.close()


async def test_refusing_and_closing_in_a_callback_schedules_no_pause(tmp: Path) -> None:
    def end(sock: socket.socket) -> None:
        sock.close()
        served.refused()
        served.close()

    served = Listener(listening(tmp / "s"), end)
    [client] = connected(tmp / "s", 1)
    await until(lambda: not (tmp / "s").exists())
    assert served._pause is None
    client.close()


async def test_closing_during_the_pause(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.02)
    faulty = Faulty(socket.AF_UNIX)
    faulty.bind(str(tmp / "s"))
    faulty.listen()
    faulty.errors = (errno.EMFILE,)
    served = Listener(faulty, Accepted())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp / "s"))
        await until(lambda: not faulty.errors, "for the pause")
        served.close()
        served.close()
        client.settimeout(60)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


async def test_closing_in_a_callback(tmp: Path) -> None:
    taken: list[socket.socket] = []

    def once(sock: socket.socket) -> None:
        taken.append(sock)
        served.close()

    served = Listener(listening(tmp / "s"), once)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp / "s"))
        await until(lambda: taken)
    taken[0].close()
    assert not (tmp / "s").exists()


# Closing.


async def test_a_socket_file_is_removed_with_its_listener(tmp: Path) -> None:
    served = Listener(listening(tmp / "s"), Accepted())
    assert (tmp / "s").exists()
    served.close()
    served.close()
    assert not (tmp / "s").exists()


async def test_a_replaced_socket_file_stays(tmp: Path) -> None:
    served = Listener(listening(tmp / "s"), Accepted())
    (tmp / "s").unlink()
    with listening(tmp / "s"):
        served.close()
        assert (tmp / "s").exists()


async def test_closing_without_a_socket_file(tmp: Path) -> None:
    served = Listener(listening(tmp / "s"), Accepted())
    (tmp / "s").unlink()
    served.close()

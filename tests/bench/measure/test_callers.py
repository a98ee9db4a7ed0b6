"""A flood of connections: each counted once, at the given rate, from the given user and address."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.users import NOBODY
from tunnel.bench.measure.callers import Callers, Says, words
from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.rig import Rig, Source


@pytest.fixture(params=["tcp", "unix"])
def endpoint(request: pytest.FixtureRequest, tmp: Path) -> ProgramAddress:
    tmp.chmod(0o711)
    return free_tcp("127.0.0.1") if request.param == "tcp" else ProgramAddress(path=str(tmp / "sock"))


@pytest.fixture
def server(endpoint: ProgramAddress) -> Iterator[socket.socket]:
    with endpoint.listen() as listening:
        listening.settimeout(20)
        yield listening


def rounds(count: int) -> Iterator[bool]:
    yield from [False] * count
    yield True


def connect_all(callers: Callers, turns: int) -> None:
    over = rounds(turns)
    callers.run(lambda _: next(over))


def test_each_connection_is_made_and_sends_its_data(endpoint: ProgramAddress, server: socket.socket) -> None:
    callers = Callers(endpoint, words(Says.GARBAGE), 0)
    connect_all(callers, 1)
    for _ in range(callers.made):
        with server.accept()[0] as sock:
            assert sock.recv(100) == b"GET / HTTP/1.0\r\n\r\n"
    assert (callers.made, callers.failed) == (32, 0)
    callers.close()


def test_each_refused_connection_is_a_failure(endpoint: ProgramAddress) -> None:
    callers = Callers(endpoint, b"", 0)
    connect_all(callers, 2)
    callers._judge_fresh()
    assert (callers.made, callers.failed) == (0, 64)
    callers.close()


def test_a_connection_that_is_closed_immediately_counts_as_made() -> None:
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen() as server:
        with endpoint.connect() as sock:
            server.accept()[0].close()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        callers = Callers(endpoint, b"", 0)
        connect_all(callers, 1)
        accepted = [server.accept()[0] for _ in range(callers.made)]
        assert len(accepted) == 32
        for sock in accepted:
            sock.close()
        callers.close()


def test_the_rate_is_not_exceeded(endpoint: ProgramAddress, server: socket.socket) -> None:
    callers = Callers(endpoint, b"", 1e-3)
    connect_all(callers, 50)
    assert callers.made == 0
    callers.close()


def test_the_rate_counts_from_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Independently of the number of calls in between."""
    now = 100.0
    monkeypatch.setattr("tunnel.bench.measure.callers.time.monotonic", lambda: now)
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen():
        callers = Callers(endpoint, b"", 10)
        for made in (0, 10, 20):
            connect_all(callers, 1)
            assert callers.made == made
            now += 1.0
        callers.close()


def test_all_connections_have_the_source_address() -> None:
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen() as server:
        callers = Callers(endpoint, b"", 0, "127.0.0.9")
        connect_all(callers, 1)
        sock, address = server.accept()
        sock.close()
        assert address[0] == "127.0.0.9"
        callers.close()


def test_the_hello_is_a_client_hello() -> None:
    assert words(Says.HELLO)[0] == 22  # a record of the handshake
    assert words(Says.HELLO)[5] == 1  # ClientHello
    assert words(Says.SILENT) == b""


@pytest.mark.root
def test_a_process_calls_as_another_user_until_its_input_ends(tmp: Path) -> None:
    tmp.chmod(0o711)
    endpoint = ProgramAddress(path=str(tmp / "sock"))
    with endpoint.listen() as server, Rig(tmp) as rig:
        Path(endpoint.path).chmod(0o666)
        found = []

        def serve() -> None:
            with server.accept()[0] as sock:
                found.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))

        thread = threading.Thread(target=serve)
        thread.start()
        command = [*Rig.module("callers", "call", endpoint), "--per-second=0", f"--uid={NOBODY}"]
        callers = Source(rig.start("callers", command, talks=True))
        thread.join(20)
        callers.say({})
        assert callers.hear(20)["made"] >= 1
        callers.close()
    (credentials,) = found
    assert int.from_bytes(credentials[4:8], "little") == NOBODY != os.geteuid()


def test_the_plain_listener_closes_every_connection(tmp: Path, endpoint: ProgramAddress) -> None:
    with Rig(tmp) as rig:
        rig.start_module("plain", "callers", "listen", endpoint)
        for _ in range(3):  # the reset may come before or after ``connect`` returns
            with suppress(ConnectionResetError), endpoint.connect() as sock:
                assert sock.recv(1) == b""

"""The control socket: one request, one reply, and no client can make it fail."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.users import NOBODY, acting_as
from tests.support.waiting import unexpected, until
from tunnel.daemon import control_socket as module
from tunnel.daemon.control_socket import Command, ControlSocket, ask
from tunnel.errors import TunnelError, UnreachableError, UsageError


def fail() -> None:
    raise UsageError("not today")


async def add(one: int, other: int) -> int:
    await asyncio.sleep(0)
    return one + other


@pytest.fixture
async def path(tmp: Path) -> AsyncIterator[Path]:
    """A control socket with three commands."""
    commands: dict[str, Command] = {"status": lambda: {"up": True}, "fail": fail, "add": add}
    with unexpected() as faults:
        served = ControlSocket(tmp / "control.sock", commands)
        yield tmp / "control.sock"
        await served.close()
    assert not faults


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def asked(path: Path, request: bytes) -> dict[str, Any]:
    """Send raw bytes; return the reply."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(str(path))
        await loop.sock_sendall(sock, request)
        line = b""
        async with asyncio.timeout(60):
            while chunk := await loop.sock_recv(sock, 65536):
                line += chunk
    answer: dict[str, Any] = json.loads(line)
    return answer


async def test_command_is_answered(path: Path) -> None:
    assert await asyncio.to_thread(ask, path, "status") == {"up": True}


async def test_asynchronous_command_gets_its_arguments(path: Path) -> None:
    assert await asyncio.to_thread(ask, path, "add", one=3, other=4) == 7


@pytest.mark.parametrize("arguments", [{}, {"one": 1}, {"one": 1, "other": 2, "more": 3}])
async def test_wrong_arguments_are_answered_with_the_expected_ones(
    path: Path, arguments: dict[str, int]
) -> None:
    with pytest.raises(TunnelError, match=r"add \(with one, other\)"):
        await asyncio.to_thread(ask, path, "add", **arguments)


async def test_failure_is_reported(path: Path) -> None:
    with pytest.raises(TunnelError, match=f"the daemon at {path} reported: not today"):
        await asyncio.to_thread(ask, path, "fail")


async def test_unknown_command_is_answered_with_the_known_ones(path: Path) -> None:
    with pytest.raises(TunnelError, match=r'\{"command": one of: status, fail, add \(with one, other\)\}'):
        await asyncio.to_thread(ask, path, "explode")


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"command": ["status"]}\n', b"\xff\xfe\n", b"x" * 70_000],
)
async def test_nonsense_is_answered(path: Path, request_: bytes) -> None:
    answer = await asked(path, request_)
    assert answer["ok"] is False
    assert "expected one line of JSON" in answer["error"]
    assert await asyncio.to_thread(ask, path, "status") == {"up": True}


async def test_fragmented_request_is_reassembled(path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(str(path))
        for piece in (b'{"comm', b'and": "sta', b'tus"}\n'):
            await loop.sock_sendall(sock, piece)
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(loop.sock_recv(sock, 65536), 60)
    assert json.loads(answer) == {"ok": True, "result": {"up": True}}


async def test_silent_client_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(str(path))
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 60) == b""


async def test_client_that_disconnects_is_ignored(path: Path) -> None:
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.send(b'{"command": "status"}\n')
    assert await asyncio.to_thread(ask, path, "status") == {"up": True}


async def test_only_the_owner_has_access(path: Path) -> None:
    assert mode_of(path) == 0o600


async def test_close_disconnects_clients_and_removes_the_socket(tmp: Path) -> None:
    served = ControlSocket(tmp / "control.sock", {})
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(str(tmp / "control.sock"))
        await until(lambda: served._tasks, "for the client")
        await asyncio.wait_for(served.close(), 5)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 60) == b""
    assert not (tmp / "control.sock").exists()


def test_no_daemon_is_unreachable(tmp: Path) -> None:
    with pytest.raises(UnreachableError, match=r"none: No such file or directory; is the daemon running\?"):
        ask(tmp / "none", "status")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "closed the connection without a reply"),
        (b'{"ok": true, "res', "closed the connection without a reply"),
        (b"HTTP/1.1 400 Bad Request\n", "invalid reply from .*control: not an mtunnel daemon"),
        (b"[]\n", "invalid reply from .*control: not an mtunnel daemon"),
        (b'{"ok": true}\n', "invalid reply from .*control: not an mtunnel daemon"),
    ],
)
def test_invalid_reply_is_reported(tmp: Path, answer: bytes, told: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp / "control"))
        server.listen()

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                sock.recv(100)
                sock.send(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UnreachableError, match=told):
            ask(tmp / "control", "status")
        thread.join(60)


def test_daemon_whose_socket_is_gone_is_distinguished_from_none(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds its lock: the hint "is the daemon running?" would mislead the operator."""
    monkeypatch.setattr(module, "holder", lambda path: 4711)
    with pytest.raises(
        UnreachableError, match=r"the daemon is process 4711, and its socket was removed or replaced: restart"
    ):
        ask(tmp / "none", "status")
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp / "control"))
        server.listen()
        with pytest.raises(UnreachableError, match=r"timed out; the daemon is process 4711: is it stopped\?"):
            ask(tmp / "control", "status")
        (tmp / "control").chmod(0)
        if os.geteuid() == 0:
            tmp.chmod(0o755)
            with (
                acting_as(NOBODY),
                pytest.raises(UnreachableError, match="Permission denied; run this as root"),
            ):
                ask(tmp / "control", "status")


def test_daemon_that_hangs(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp / "control"))
        server.listen()
        with pytest.raises(UnreachableError, match="timed out"):
            ask(tmp / "control", "status")


async def test_connection_accepted_just_before_close_is_closed(tmp: Path) -> None:
    served = ControlSocket(tmp / "another.sock", {"status": dict})
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    served._accepted(ours)
    await served.close()
    theirs.close()
    assert ours.fileno() == -1

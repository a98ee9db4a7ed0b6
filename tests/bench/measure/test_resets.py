"""Connections are reset from outside: those to one port, and each time enough has been sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from tunnel.bench.measure import resets
from tunnel.bench.measure.resets import connections, each_time, reset, sent_by

pytestmark = pytest.mark.root


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connected(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    near = socket.create_connection(server.getsockname(), timeout=10)
    far, _ = server.accept()
    far.settimeout(10)
    return near, far


def test_both_ends_of_a_connection_are_reset_and_no_others(server: socket.socket) -> None:
    port = server.getsockname()[1]
    assert connections(port) == []
    near, far = connected(server)
    (found,) = connections(port)
    other_near, other_far = connected(server)
    with near, far, other_near, other_far:
        assert reset(found)
        with pytest.raises(ConnectionAbortedError):
            near.recv(1)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        other_near.sendall(b"x")
        assert other_far.recv(1) == b"x"
        assert not reset(found), "it has been closed"
        assert len(connections(port)) == 1


def test_the_same_port_of_another_address_is_not_reset(server: socket.socket) -> None:
    port = server.getsockname()[1]
    with socket.create_server(("127.0.0.2", port)) as elsewhere:
        near, far = connected(server)
        other_near, other_far = connected(elsewhere)
        with near, far, other_near, other_far:
            assert len(connections(port)) == 2
            (found,) = connections(port, "127.0.0.2")
            assert reset(found)
            with pytest.raises(ConnectionAbortedError):
                other_near.recv(1)
            near.sendall(b"x")
            assert far.recv(1) == b"x"


def test_a_connection_is_reset_each_time_enough_was_sent(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "_LOOK", 0)
    sent = iter([0, 99, 100, 150, 249, 250, 300, 399, 400])
    ends = [connected(server) for _ in range(2)]
    counts = each_time(lambda: next(sent), 100, partial(connections, server.getsockname()[1]))
    assert list(islice(counts, 2)) == [1, 2]
    assert next(sent) == 399
    for sock in (sock for pair in ends for sock in pair):
        with pytest.raises(OSError, match=r"abort|reset"):
            sock.recv(1)
        sock.close()


def test_a_connection_that_is_not_a_lane_is_not_reset(
    server: socket.socket, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.getsockname()[1]
    with ExitStack() as stack:
        ends = [stack.enter_context(sock) for _ in range(3) for sock in connected(server)]
        local = f"127.0.0.1:{ends[2].getsockname()[1]}"
        facts = {"links": [{"lanes": []}, {"lanes": [{"local": local}]}]}
        monkeypatch.setattr(resets, "ask_status", lambda path: facts if path == tmp else None)
        (found,) = resets.lanes(tmp, port)
        assert reset(found)
        with pytest.raises(ConnectionAbortedError):
            ends[2].recv(1)
        assert len(connections(port)) == 2


def test_the_bytes_sent_by_an_interface_are_read_from_the_kernel(server: socket.socket) -> None:
    before = sent_by("lo")
    near, far = connected(server)
    with near, far:
        near.sendall(bytes(100_000))
        assert len(far.recv(100_000, socket.MSG_WAITALL)) == 100_000
    assert sent_by("lo") >= before + 100_000
    with pytest.raises(OSError, match="no such interface: eth9"):
        sent_by("eth9")

"""The uid of the client of a local connection, which is never root's by mistake."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.network import tcp_pair
from tunnel.errors import RefusedError
from tunnel.net import netlink
from tunnel.net.peer_credentials import caller_uid, is_closed, unavailable_reason

NOBODY = 65534
HUNG_UP = "the client disconnected before it could be identified"

CALL = """
import os, socket, struct, sys
os.setgid(int(sys.argv[5]))
os.setuid(int(sys.argv[5]))
sock = socket.socket(int(sys.argv[1]))
source, target = eval(sys.argv[2]), eval(sys.argv[3])
if source:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(source)
sock.connect(target)
if sys.argv[4] == "reset":
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
if sys.argv[4] == "stay":
    print("connected", flush=True)
    sys.stdin.read()
"""


@contextmanager
def caller(
    listener: socket.socket, *, uid: int, way: str = "stay", source: object = None
) -> Iterator[socket.socket]:
    """The accepted end of a connection from a process with ``uid``, which may have exited already."""
    arguments = [str(int(listener.family)), repr(source), repr(listener.getsockname()), way, str(uid)]
    with subprocess.Popen(
        [sys.executable, "-I", "-c", CALL, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == (b"connected\n" if way == "stay" else b"")
            if way != "stay":
                assert process.wait(timeout=60) == 0
            listener.settimeout(60)
            sock, _ = listener.accept()
            with sock:
                yield sock
        finally:
            process.stdin.close()
            process.wait(timeout=60)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def unix(tmp: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp / "s"))
        listener.listen()
        tmp.chmod(0o755)
        (tmp / "s").chmod(0o666)
        yield listener


def test_our_own_connection_has_our_uid(tcp: socket.socket, unix: socket.socket) -> None:
    for listener in (tcp, unix):
        with socket.socket(listener.family) as client:
            client.connect(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted:
                assert caller_uid(accepted) == os.geteuid()


def test_ipv6_clients_are_identified() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.create_connection(listener.getsockname()[:2], 5),
    ):
        accepted, _ = listener.accept()
        with accepted:
            assert caller_uid(accepted) == os.geteuid()


def test_clients_with_an_ipv4_mapped_address_are_identified(tcp: socket.socket) -> None:
    with socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", tcp.getsockname()[1]))
        accepted, _ = tcp.accept()
        with accepted:
            assert accepted.family == socket.AF_INET
            assert caller_uid(accepted) == os.geteuid()


@pytest.mark.root
def test_another_user_is_identified_over_tcp(tcp: socket.socket) -> None:
    with caller(tcp, uid=NOBODY) as sock:
        assert caller_uid(sock) == NOBODY


@pytest.mark.root
def test_another_user_is_identified_over_a_unix_socket(unix: socket.socket) -> None:
    with caller(unix, uid=NOBODY) as sock:
        assert caller_uid(sock) == NOBODY


@pytest.mark.root
def test_a_unix_client_is_identified_after_it_disconnected(unix: socket.socket) -> None:
    with caller(unix, uid=NOBODY, way="close") as sock:
        assert caller_uid(sock) == NOBODY


@pytest.mark.root
def test_a_tcp_client_that_disconnected_is_refused(tcp: socket.socket) -> None:
    """The kernel keeps its socket without an owner, and reports it with uid 0."""
    with caller(tcp, uid=NOBODY, way="close") as sock, pytest.raises(RefusedError, match=HUNG_UP):
        caller_uid(sock)


@pytest.mark.root
def test_a_tcp_client_in_time_wait_is_refused(tcp: socket.socket) -> None:
    with caller(tcp, uid=NOBODY, way="close") as sock:
        sock.settimeout(60)
        assert sock.recv(1) == b""
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(RefusedError, match=HUNG_UP):
            caller_uid(sock)


@pytest.mark.root
def test_a_tcp_client_that_reset_is_refused(tcp: socket.socket) -> None:
    with caller(tcp, uid=NOBODY, way="reset") as sock, pytest.raises(RefusedError, match=HUNG_UP):
        caller_uid(sock)


@pytest.mark.root
def test_one_port_on_two_addresses_is_two_clients(tcp: socket.socket) -> None:
    """Another user's connection from 127.0.0.1 must not pass for root's from 127.0.0.2."""
    with socket.socket() as root:
        root.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        root.bind(("127.0.0.2", 0))
        root.connect(tcp.getsockname())
        port = root.getsockname()[1]
        accepted, _ = tcp.accept()
        with accepted, caller(tcp, uid=NOBODY, source=("127.0.0.1", port)) as other:
            assert caller_uid(accepted) == 0
            assert caller_uid(other) == NOBODY


def test_available_where_the_kernel_identifies_tcp_clients() -> None:
    assert unavailable_reason() is None


def test_unavailable_reason_names_the_module_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tcp_diag the kernel finds no connection; where netlink is forbidden it returns an error."""
    monkeypatch.setattr(netlink, "ask", lambda *question: None)
    assert "cannot identify TCP clients: load the module tcp_diag (modprobe tcp_diag)" in str(
        unavailable_reason()
    )

    def forbidden(*question: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(netlink, "ask", forbidden)
    assert "(Operation not permitted)" in str(unavailable_reason())


@pytest.mark.root
def test_unavailable_without_loopback() -> None:
    """As early in a boot, or in a container."""
    asking = "from tunnel.net.peer_credentials import unavailable_reason; print(unavailable_reason())"
    told = subprocess.check_output(["unshare", "-n", sys.executable, "-c", asking], text=True, timeout=60)
    assert told == (
        "cannot connect over loopback (Network is unreachable): run 'ip link set lo up', or use unix:\n"
    )


# Whether a process still holds the other end.


FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.mark.parametrize(("family", "host"), FAMILIES, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("accepted", [True, False], ids=["of a client", "to a target"])
def test_a_closed_tcp_socket_is_distinguished_from_a_half_closed_one(
    family: socket.AddressFamily, host: str, accepted: bool
) -> None:
    with socket.create_server((host, 0), family=family) as server:
        caller = socket.create_connection(server.getsockname()[:2])
        assert not is_closed(caller), "it is not accepted yet"
        called, _ = server.accept()
    ours, theirs = (called, caller) if accepted else (caller, called)
    with ours:
        assert not is_closed(ours)
        theirs.shutdown(socket.SHUT_WR)
        assert not is_closed(ours)
        theirs.close()
        assert is_closed(ours)


def test_a_tcp_socket_closed_with_unread_bytes_counts_as_closed() -> None:
    ours, theirs = tcp_pair()
    theirs.setblocking(False)
    with ours:
        with suppress(BlockingIOError):
            while True:
                theirs.send(bytes(1 << 20))
        assert not is_closed(ours)
        theirs.close()
        assert is_closed(ours)


def test_a_closed_unix_socket_is_distinguished_from_a_half_closed_one() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        assert not is_closed(ours)
        theirs.shutdown(socket.SHUT_WR)
        assert not is_closed(ours)
        theirs.close()
        assert is_closed(ours)


def test_an_end_unknown_to_this_kernel_may_be_on_another_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netlink, "ask", lambda *_: None)
    for theirs, ours, closed in (("2001:db8::1", "2001:db8::2", False), ("::1", "::1", True)):
        sock = SimpleNamespace(
            family=socket.AF_INET6,
            getpeername=lambda name=theirs: (name, 1),
            getsockname=lambda name=ours: (name, 2),
        )
        assert is_closed(sock) is closed  # type: ignore[arg-type]


def test_without_a_reply_of_the_kernel_no_socket_counts_as_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(errno.EPERM, "not permitted")

    ours, theirs = tcp_pair()
    theirs.close()
    with ours:
        assert is_closed(ours)
        monkeypatch.setattr(netlink, "ask", refuse)
        assert not is_closed(ours)

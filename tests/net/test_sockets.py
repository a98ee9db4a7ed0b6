"""Options of sockets of lanes and local connections, and resets as the peer sees them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.namespace import nft
from tests.support.network import tcp_pair
from tests.support.waiting import until
from tunnel.net import sockets
from tunnel.net.sockets import (
    LEAST_UNREAD,
    NOTSENT_LOWAT,
    UNIX_UNSENT,
    USER_TIMEOUT_MS,
    bound_unread,
    caller_of,
    has_gap,
    host_of,
    is_deserted,
    loopback_pair,
    name_of,
    reason_of,
    reset,
    socket_address,
    stuck_for,
    tune_lane,
    tune_local,
)

TCP_NOTSENT_LOWAT = 25  # linux/tcp.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = tcp_pair()
    with one, other:
        yield one, other


def tcp_option(sock: socket.socket, option: int) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, option)


def congestion_of(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def test_a_socket_is_deserted_when_closed_without_unread_bytes() -> None:
    for last, deserted in ((b"", True), (b"a whole migration", False)):
        one, other = socket.socketpair()
        with one, other:
            assert not is_deserted(one)
            other.send(last or b"x")
            if not last:
                assert one.recv(1) == b"x"
            other.close()
            assert is_deserted(one) is deserted
            assert one.recv(100) == last, "no byte is consumed"
    ours, theirs = tcp_pair()
    with ours:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert is_deserted(ours)


def test_a_segment_size_applies_to_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as dialing:
        tune_lane(dialing, None, 700)
        dialing.setblocking(True)
        dialing.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            assert {s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for s in (dialing, accepted)} <= {
                700,
                688,  # without the bytes of timestamps
            }


def test_a_connection_with_acknowledged_bytes_is_not_stuck() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialing = socket.create_connection(server.getsockname())
        with dialing:
            dialing.send(b"x")
            assert not stuck_for(dialing)
            assert not has_gap(dialing)
    one, other = socket.socketpair()
    with one, other:
        assert not stuck_for(one), "it is no TCP socket"
    assert not stuck_for(one), "it is closed"
    assert not has_gap(one)


@pytest.mark.root
@pytest.mark.parametrize("rto_min", [200, 20], ids=lambda each: f"rto_min {each} ms")
def test_unacknowledged_bytes_are_stuck_for_no_longer_than_since_they_were_sent(
    network: None, rto_min: int
) -> None:
    """Also with a shorter minimum RTO (ip-route(8), rto_min)."""
    route = f"ip route replace local 127.0.0.1 dev lo table local rto_min {rto_min}ms"
    subprocess.run(route.split(), check=True, timeout=60)
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialing = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with dialing, accepted:
            nft("add table inet hole { chain in { type filter hook input priority 0; drop; } ; }")
            began = time.monotonic()
            dialing.send(b"x")
            while not (seconds := stuck_for(dialing)):
                assert time.monotonic() < began + 60
                time.sleep(0.01)
            assert seconds <= time.monotonic() - began
            assert seconds > rto_min / 1000


def test_a_lane_has_its_options_and_the_kernels_buffer_sizes() -> None:
    with socket.socket() as sock:
        before = [sock.getsockopt(socket.SOL_SOCKET, which) for which in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
        tune_lane(sock, "reno")
        assert not sock.getblocking()
        assert tcp_option(sock, socket.TCP_NODELAY)
        assert tcp_option(sock, TCP_NOTSENT_LOWAT) == NOTSENT_LOWAT
        assert tcp_option(sock, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT_MS
        assert congestion_of(sock) == "reno"
        after = [sock.getsockopt(socket.SOL_SOCKET, which) for which in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
        assert after == before


def unread_bound(sock: socket.socket) -> int:
    """The value that SO_RCVBUF was set to: the kernel doubles it for bookkeeping (socket(7))."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


@pytest.mark.root
def test_the_receive_buffer_is_limited_at_a_short_rtt(pair: tuple[socket.socket, socket.socket]) -> None:
    bound_unread(pair[0])
    assert LEAST_UNREAD <= unread_bound(pair[0]) <= sockets.MOST_UNREAD


@pytest.mark.root
async def test_the_window_grows_to_the_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = pair
    writer.setblocking(False)
    bound_unread(reader)
    assert tcp_option(reader, socket.TCP_WINDOW_CLAMP) == unread_bound(reader)

    def filled() -> bool:
        with suppress(BlockingIOError):
            while True:
                writer.send(bytes(1 << 16))
        (unread,) = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))
        return int(unread) > unread_bound(reader) // 2

    await until(filled, "for more than the window of a new connection")


@pytest.mark.root
def test_the_receive_buffer_is_not_limited_at_a_long_rtt(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = unread_bound(pair[0])
    monkeypatch.setattr(sockets, "FASTEST", 1 << 50)  # as if a round trip took much longer
    bound_unread(pair[0])
    assert unread_bound(pair[0]) == before


def test_without_permission_buffers_are_unchanged() -> None:
    class Bare:
        def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
            return bytes(size)

        def setsockopt(self, *_option: int) -> None:
            raise PermissionError

    bound_unread(Bare())  # type: ignore[arg-type]  # only these methods are used


def test_a_lane_keeps_the_systems_congestion_control_by_default() -> None:
    with socket.socket() as sock:
        before = congestion_of(sock)
        tune_lane(sock, None)
        assert congestion_of(sock) == before


def test_a_congestion_control_that_the_kernel_lacks_is_an_error() -> None:
    with socket.socket() as sock, pytest.raises(FileNotFoundError):
        tune_lane(sock, "nonesuch")


def test_local_connections_of_both_families_have_their_options() -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tune_local(tcp)
        tune_local(unix)
        assert tcp_option(tcp, socket.TCP_NODELAY)
        assert not tcp.getblocking()
        assert not unix.getblocking()


@pytest.mark.root
def test_the_receive_buffer_of_a_local_connection_is_limited(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    tune_local(pair[0])
    assert LEAST_UNREAD <= unread_bound(pair[0]) <= sockets.MOST_UNREAD
    assert tcp_option(pair[0], socket.TCP_WINDOW_CLAMP) == unread_bound(pair[0])


@pytest.mark.root
def test_a_unix_connection_accepts_a_whole_batch_in_one_call() -> None:
    one, other = socket.socketpair()
    with one, other:
        tune_local(one)
        assert one.send(bytes(UNIX_UNSENT)) == UNIX_UNSENT


@pytest.mark.parametrize("kind", [socket.AF_UNIX, socket.AF_INET])
def test_without_permission_a_local_connection_keeps_its_buffers(kind: socket.AddressFamily) -> None:
    class Bare:
        family = kind

        def setblocking(self, _flag: bool) -> None:
            pass

        def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
            return bytes(size)

        def setsockopt(self, _level: int, option: int, _value: object) -> None:
            if option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
                raise PermissionError

    tune_local(Bare())  # type: ignore[arg-type]  # only these methods are used


def test_reset_reaches_the_peer(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    reset(one)
    assert one.fileno() == -1
    other.settimeout(60)
    with pytest.raises(ConnectionResetError):
        other.recv(1)


def test_reset_of_a_unix_socket_ends_it() -> None:
    one, other = socket.socketpair()
    with other:
        reset(one)
        other.settimeout(60)
        assert other.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            other.send(b"x")


def test_reset_may_be_repeated() -> None:
    one, other = socket.socketpair()
    with other:
        reset(one)
        reset(one)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.1", 16515), "192.0.2.1:16515"),
        (("::1", 16515, 0, 0), "[::1]:16515"),
        (("fe80::1", 16515, 0, socket.if_nametoindex("lo")), "[fe80::1%lo]:16515"),
        (("fe80::1", 16515, 0, 999_999), "[fe80::1%999999]:16515"),
        ("/run/mtunnel/web1.sock", "/run/mtunnel/web1.sock"),
        ("", "unnamed socket"),
    ],
)
def test_addresses_are_formatted(address: object, text: str) -> None:
    assert name_of(address) == text


def test_the_peers_address_is_returned_until_it_disconnects(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = pair
    assert caller_of(one) == name_of(other.getsockname())
    reset(other)
    one.settimeout(60)
    with pytest.raises(ConnectionResetError):
        one.recv(1)
    assert caller_of(one) == "gone"


def test_a_reason_is_the_systems_text() -> None:
    by_loop = OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")
    assert reason_of(by_loop) == os.strerror(errno.ECONNREFUSED)
    assert reason_of(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) == (
        "Name or service not known"
    )
    assert reason_of(OSError("AF_UNIX path too long")) == "AF_UNIX path too long"


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("127.0.0.1", socket.AF_INET, ("127.0.0.1", 7)),
        ("::1", socket.AF_INET6, ("::1", 7, 0, 0)),
        ("fe80::1%lo", socket.AF_INET6, ("fe80::1", 7, 0, socket.if_nametoindex("lo"))),
    ],
)
def test_an_address_keeps_its_interface_for_the_kernel(
    host: str, family: socket.AddressFamily, address: object
) -> None:
    found, sockaddr = socket_address(host, 7)
    assert found is family
    assert (sockaddr[0].partition("%")[0], *sockaddr[1:]) == address


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(OSError, match="no network interface none9") as caught:
        socket_address("fe80::1%none9", 7)
    assert caught.value.errno == errno.ENODEV
    assert reason_of(caught.value) == "this host has no network interface none9"


@pytest.mark.parametrize(
    ("tracked", "silence"), [("432000", 20), ("60", 20), ("30", 10), ("5", 1), ("1", 1), ("", 20), (None, 20)]
)
def test_keepalives_are_sent_before_connection_tracking_times_out(
    tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[socket.socket, socket.socket],
    tracked: str | None,
    silence: int,
) -> None:
    if tracked is not None:
        (tmp / "timeout").write_text(tracked)
    monkeypatch.setattr(sockets, "_TRACKED_FOR", tmp / "timeout")
    tune_lane(pair[0], None)
    tune_local(pair[1])
    for sock in pair:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            assert sock.getsockopt(socket.IPPROTO_TCP, option) == silence


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("192.0.2.1:16515", "192.0.2.1"),
        ("[2001:db8::1]:7", "2001:db8::1"),
        ("/run/a:b", "/run/a:b"),
        ("gone", "gone"),
    ],
)
def test_an_address_without_its_port(name: str, host: str) -> None:
    assert host_of(name) == host


def test_other_connections_to_a_loopback_pair_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, strangers = socket.create_connection, list[socket.socket]()

    def come_late(address: tuple[str, int], patience: float) -> socket.socket:
        strangers.append(connect(address, patience))
        return connect(address, patience)

    monkeypatch.setattr(socket, "create_connection", come_late)
    one, other = loopback_pair(10)
    (stranger,) = strangers
    with one, other, stranger:
        assert (one.getpeername(), other.getpeername()) == (other.getsockname(), one.getsockname())
        assert stranger.recv(1) == b""


def test_a_loopback_pair_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        monkeypatch.setattr(socket, "create_connection", lambda *_: nobody)
        with pytest.raises(TimeoutError):
            loopback_pair(0.01)
    assert nobody.fileno() == -1

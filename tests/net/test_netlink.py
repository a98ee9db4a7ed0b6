"""Single requests over netlink: objects that exist, that do not, and requests that are refused."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from tests.support.users import NOBODY, acting_as
from tunnel.net import netlink

SOCK_DIAG_BY_FAMILY = 20
LISTEN = 1 << 10  # as a mask of TCP's states


def question(port: int) -> bytes:
    """A sock_diag(7) request for the socket that listens on ``port`` of 127.0.0.1."""
    head = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, LISTEN)
    names = struct.pack("!HH16s16s", port, 0, socket.inet_aton("127.0.0.1"), bytes(4))
    return head + names + struct.pack("=III", 0, 0xFFFF_FFFF, 0xFFFF_FFFF)


def test_an_existing_object_is_returned() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, question(port))
    assert answer is not None
    assert struct.unpack_from("!H", answer, 4)[0] == port


def test_a_missing_object_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, question(port)) is None


def test_an_invalid_request_raises_the_kernels_error() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, b"")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.root
def test_a_request_without_permission_raises_the_kernels_error() -> None:
    with acting_as(NOBODY), pytest.raises(PermissionError):
        netlink.ask(netlink.NETFILTER, 1 << 8 | 1, struct.pack("=BBH", socket.AF_INET, 0, 0))


def test_a_missing_reply_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_TIMEOUT", 0.05)
    monkeypatch.setattr(netlink, "_REQUEST", 0)  # the kernel ignores such a message
    with pytest.raises(TimeoutError):
        netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, question(1))

"""Descriptors sent on a local connection are detected or refused, and never dropped silently."""

from __future__ import annotations

import array
import errno
import os
import socket
from pathlib import Path

import pytest

from tests.support.network import tcp_pair
from tunnel.relay.pump import SO_PASSRIGHTS, receiver, refuse_descriptors

OPEN = Path("/proc/self/fd")


def send_descriptor(sock: socket.socket, data: bytes = b"x") -> None:
    """Send descriptors as libvirt does."""
    read, write = os.pipe()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read, write]))
    try:
        sock.sendmsg([data], [rights])
    finally:
        os.close(read)
        os.close(write)


def taken(sock: socket.socket, size: int) -> bytes:
    """Return what one call receives."""
    memory = bytearray(size)
    return bytes(memory[: receiver(sock)(memoryview(memory))])


def test_bytes_are_received_in_both_families() -> None:
    for sender, taker in (socket.socketpair(), tcp_pair()):
        with sender, taker:
            taker.setblocking(True)
            sender.send(b"hello")
            assert taken(taker, 100) == b"hello"
            sender.close()
            assert taken(taker, 100) == b""


def test_descriptors_are_detected_and_closed() -> None:
    sender, taker = socket.socketpair()
    with sender, taker:
        before = len(list(OPEN.iterdir()))
        sender.send(b"first")
        assert taken(taker, 5) == b"first"
        send_descriptor(sender)
        with pytest.raises(OSError, match="file descriptors cannot be passed to another host") as caught:
            taken(taker, 100)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert len(list(OPEN.iterdir())) == before


def test_receiving_without_data_raises_blocking_io_error() -> None:
    sender, taker = socket.socketpair()
    with sender, taker:
        taker.setblocking(False)
        with pytest.raises(BlockingIOError):
            taken(taker, 100)


def knows_passrights() -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
        except OSError:
            return False
    return True


def test_sending_descriptors_is_refused_where_the_kernel_supports_it() -> None:
    sender, taker = socket.socketpair()
    with sender, taker:
        refuse_descriptors(taker)
        if knows_passrights():
            with pytest.raises(PermissionError):
                send_descriptor(sender)
        else:
            send_descriptor(sender)
        sender.send(b"y")
        assert taker.recv(100).endswith(b"y"), "bytes alone are still accepted"


def test_refuse_ignores_tcp_connections() -> None:
    sender, taker = tcp_pair()
    with sender, taker:
        refuse_descriptors(taker)

"""Plain sockets in the role of a hypervisor: callers, targets, bulk whose every byte is checked."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tunnel.units import MIB

PATIENCE = 30.0
"""Timeout in seconds of all sockets here, so that a test fails rather than hangs."""

QUIET = 2.5
"""Seconds without an accepted byte after which a stream counts as stalled."""

_NOISE = random.Random("mtunnel").randbytes(MIB)


def connect(address: str) -> socket.socket:
    """Return a connection to ``tcp:IP:PORT`` or ``unix:PATH``."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(rest)
        return sock
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


class Target:
    """A target of an egress: listens on a port of 127.0.0.1, or on a unix socket at ``path``."""

    def __init__(self, path: Path | None = None, backlog: int = 64, port: int = 0) -> None:
        if path is None:
            self._server = socket.create_server(("127.0.0.1", port), backlog=backlog)
            self.address = f"tcp:127.0.0.1:{self._server.getsockname()[1]}"
        else:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(str(path))
            self._server.listen(backlog)
            self.address = f"unix:{path}"
        self._server.settimeout(PATIENCE)

    def accept(self) -> socket.socket:
        """Wait for the next connection and return it."""
        sock = self._server.accept()[0]
        sock.settimeout(PATIENCE)
        return sock

    @property
    def called(self) -> bool:
        """Whether a connection is pending; it is accepted and closed."""
        self._server.setblocking(False)
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return False
        finally:
            self._server.settimeout(PATIENCE)
        return True

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bulk(size: int) -> Iterator[bytes]:
    """Yield ``size`` bytes in blocks of 1 MiB, all different."""
    for start in range(0, size, MIB):
        yield (struct.pack("!Q", start) + _NOISE[8:])[: size - start]


def send_bulk(sock: socket.socket, size: int, *, end: bool = True) -> str:
    """Send ``size`` bytes, and EOF if ``end``; return their digest."""
    digest = hashlib.blake2b()
    for block in bulk(size):
        digest.update(block)
        sock.sendall(block)
    if end:
        sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def fill(sock: socket.socket) -> int:
    """Send until no more is accepted; return the number of bytes."""
    sent = 0
    sock.settimeout(QUIET)
    try:
        for block in bulk(256 * MIB):
            rest = memoryview(block)
            while rest:
                count = sock.send(rest)
                sent += count
                rest = rest[count:]
    except TimeoutError:
        return sent
    raise AssertionError(f"{sent} bytes were accepted without a reader")


def receive_all(sock: socket.socket) -> str:
    """Receive up to EOF; return the digest."""
    digest = hashlib.blake2b()
    while chunk := sock.recv(256 * 1024):
        digest.update(chunk)
    return digest.hexdigest()


def receive(sock: socket.socket, count: int) -> bytes:
    """Receive and return exactly ``count`` bytes."""
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        assert chunk, f"connection closed after {len(data)} of {count} bytes"
        data += chunk
    return data


def ends_in_reset(sock: socket.socket) -> bool:
    """Return whether a connection ends with RST and not with FIN, after discarding remaining data.

    Unix sockets have no RST: for them any end counts.
    """
    try:
        while sock.recv(256 * 1024):
            pass
    except ConnectionResetError:
        return True
    return sock.family == socket.AF_UNIX


def turned_away(address: str, count: int = 1) -> bool:
    """Return whether ``count`` connections to ``address`` are all reset, possibly during connect."""
    with ExitStack() as stack:
        callers = []
        for _ in range(count):
            with suppress(ConnectionResetError):
                callers.append(stack.enter_context(connect(address)))
        return all(ends_in_reset(caller) for caller in callers)


def exchange(one: socket.socket, other: socket.socket) -> None:
    """Check that bytes pass in both directions."""
    one.sendall(b"there")
    assert receive(other, 5) == b"there"
    other.sendall(b"back")
    assert receive(one, 4) == b"back"

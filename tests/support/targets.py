"""The owner and the targets of an egress under test."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from tunnel.errors import RefusedError
from tunnel.relay.allow_list import AllowList

ANY = AllowList.parse(["tcp:127.0.0.1:1-65535", "tcp:[::1]:1-65535", "unix:/tmp/*/*"])


class Requester:
    """Records the calls of an egress, in order."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.dialled: dict[int, socket.socket] = {}
        self.errors: dict[int, RefusedError] = {}

    def on_dialled(self, number: int, sock: socket.socket) -> None:
        self.order.append(number)
        self.dialled[number] = sock

    def on_not_dialled(self, number: int, error: RefusedError) -> None:
        self.order.append(number)
        self.errors[number] = error


class Target:
    """A unix socket path, with or without a listener."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = f"unix:{path}"
        self.listener: socket.socket | None = None
        self.fillers: list[socket.socket] = []

    def listen(self, backlog: int = 64) -> None:
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(backlog)
        self.listener.setblocking(False)

    def leave_stale(self) -> None:
        """Leave a socket file without a listener: ECONNREFUSED."""
        self.listen()
        assert self.listener is not None
        self.listener.close()

    def fill(self) -> None:
        """Fill the backlog, so that the next caller gets EAGAIN."""
        with suppress(BlockingIOError):
            while True:
                sock = socket.socket(socket.AF_UNIX)
                self.fillers.append(sock)
                sock.setblocking(False)
                sock.connect(str(self.path))

    def accepted(self) -> int:
        """Accept and close all pending connections; return their number."""
        assert self.listener is not None
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        for sock in self.fillers:
            sock.close()
        if self.listener is not None:
            self.listener.close()

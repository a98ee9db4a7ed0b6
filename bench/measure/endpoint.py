"""The listen address of a program: a TCP port on a loopback address, or a unix socket path."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from tunnel.proof.free_port import free_port


@dataclass(frozen=True)
class ProgramAddress:
    """An address of a contestant. Exactly one of ``path`` and ``port`` is set."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> ProgramAddress:
        """Parse the form of ``str()``: ``HOST:PORT``, or a path that begins with a slash."""
        if text.startswith("/"):
            return cls(path=text)
        host, _, port = text.rpartition(":")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """Whether this is a unix socket."""
        return bool(self.path)

    def listen(self) -> socket.socket:
        """Return a listening socket at this address."""
        if not self.is_unix:
            return socket.create_server((self.host, self.port), backlog=128)
        server = socket.socket(socket.AF_UNIX)
        server.bind(self.path)
        server.listen(128)
        return server

    def connect(self) -> socket.socket:
        """Return a blocking connection to this address. Raises OSError."""
        if not self.is_unix:
            return socket.create_connection((self.host, self.port), timeout=10)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        try:
            client.connect(self.path)
        except OSError:
            client.close()
            raise
        return client


def free_tcp(host: str) -> ProgramAddress:
    """Return a TCP endpoint on ``host`` whose port is free, a different one at each call."""
    return ProgramAddress(host, free_port(host))

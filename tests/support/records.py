"""A dialing peer that makes its TLS records by hand."""

from __future__ import annotations

import asyncio
import socket

from tunnel.bench.sealer import SUITE, Sealer
from tunnel.transport.openssl import TlsConnection, WantRead
from tunnel.transport.tls import TlsFiles, client_context


class RecordPeer:
    """A connection to a lane over ``sock``, which stays the caller's."""

    def __init__(self, sock: socket.socket, tls: TlsConnection) -> None:
        self.sock = sock
        self.seal = Sealer(tls)

    @classmethod
    async def connect(cls, sock: socket.socket, files: TlsFiles) -> RecordPeer:
        """Shake hands, with the one suite that ``Sealer`` is for."""
        tls = TlsConnection(client_context(files, (SUITE,)), dialing=True)
        loop = asyncio.get_running_loop()
        while True:
            try:
                tls.handshake()
            except WantRead:
                await loop.sock_sendall(sock, tls.flight())
                tls.feed(await loop.sock_recv(sock, 1 << 16))
            else:
                await loop.sock_sendall(sock, tls.flight())
                return cls(sock, tls)

    async def send(self, *records: bytes) -> None:
        """Send them in one go."""
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(records))

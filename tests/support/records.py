"""A dialing peer that builds its own TLS records."""

from __future__ import annotations

import asyncio
import socket

from tests.support.waiting import PATIENCE
from tunnel.records.key_schedule import Direction
from tunnel.records.record_opener import NonDataRecord, RecordOpener, RecordViolation
from tunnel.records.record_sealer import RecordSealer
from tunnel.records.tls_messages import KEY_UPDATE, NEW_SESSION_TICKET
from tunnel.tls.contexts import TlsFiles, client_context
from tunnel.tls.openssl import TlsConnection, WantRead


class RecordPeer:
    """A connection to a lane over ``sock``, which the caller owns."""

    def __init__(self, sock: socket.socket, tls: TlsConnection) -> None:
        self.sock = sock
        self.sealer = RecordSealer(tls.cipher, Direction(tls.secrets["CLIENT_TRAFFIC_SECRET_0"], 0))
        self._opener = RecordOpener(tls.cipher, Direction(tls.secrets["SERVER_TRAFFIC_SECRET_0"], 0))
        self._waiting = b""

    @classmethod
    async def connect(cls, sock: socket.socket, files: TlsFiles) -> RecordPeer:
        """Perform the TLS handshake; return the peer."""
        tls = TlsConnection(client_context(files), dialing=True)
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
        """Send records with one call."""
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(records))

    async def heard(self, kind: int) -> bytes:
        """Read until a record of ``kind`` other than data arrives; return its content. Handles KeyUpdate."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while True:
                plain = memoryview(bytearray(len(self._waiting)))
                cipher = memoryview(self._waiting)
                taken, _, found = self._opener.open(cipher, len(cipher), plain)
                self._waiting = self._waiting[taken:]
                assert not isinstance(found, RecordViolation), found
                if isinstance(found, NonDataRecord):
                    if found.content[0] == KEY_UPDATE:
                        self._opener.update()
                    if found.kind == kind and found.content[0] != NEW_SESSION_TICKET:
                        return found.content
                elif not taken:
                    more = await loop.sock_recv(self.sock, 1 << 16)
                    assert more, "connection closed"
                    self._waiting += more

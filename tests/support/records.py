"""A dialing peer that makes its TLS records by hand: any content, any number of KeyUpdates."""

from __future__ import annotations

import asyncio
import socket

from cryptography.hazmat.primitives import hashes

from tunnel.transport.ktls import DATA, HANDSHAKE, KEY_UPDATE, Direction, expand_label
from tunnel.transport.openssl import TlsConnection, WantRead
from tunnel.transport.records import seal
from tunnel.transport.tls import TlsFiles, client_context

SUITE = "TLS_AES_256_GCM_SHA384"


class Sealer:
    """Records of the dialing side, one behind the other, under the keys of ``tls``."""

    def __init__(self, tls: TlsConnection) -> None:
        self._cipher = tls.cipher
        self._secret = tls.secrets["CLIENT_TRAFFIC_SECRET_0"]
        self._sent = 0

    def data(self, content: bytes) -> bytes:
        """A record of application data."""
        return self.record(DATA, content)

    def update(self, *, asking: bool) -> bytes:
        """A KeyUpdate (RFC 8446 section 4.6.3); ``asking`` for one in return."""
        record = self.record(HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 1, asking]))
        self._secret = expand_label(self._secret, "traffic upd", 48, hashes.SHA384())
        self._sent = 0
        return record

    def record(self, kind: int, content: bytes) -> bytes:
        """A record of any type."""
        record = seal(self._cipher, Direction(self._secret, self._sent), kind, content)
        self._sent += 1
        return record


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

"""The other end of a record layer, with pyOpenSSL in memory, which userspace lanes once used."""

from __future__ import annotations

from contextlib import suppress

from OpenSSL import SSL

from tests.support.lanes import Hosts
from tunnel.records.key_schedule import keys_of
from tunnel.records.record_layer import RecordLayer
from tunnel.records.tls_messages import count_records
from tunnel.tls.openssl import TlsConnection, WantRead


class PyOpensslPeer:
    """A peer with pyOpenSSL. ``ended``: why the connection ended: OpenSSL's error text, or "close_notify"."""

    def __init__(self, tls: TlsConnection) -> None:
        self.ended = ""
        self._tls = tls
        self._connection = tls._connection

    def encrypt(self, data: bytes) -> bytes:
        """Return pending records, followed by the records of ``data``."""
        if data:
            self._connection.sendall(data)
        return self._tls.flight()

    def decrypt(self, cipher: bytes) -> bytes:
        """Return the plaintext of ``cipher``."""
        if cipher:
            self._tls.feed(cipher)
        got = b""
        with suppress(WantRead):
            while not self.ended:
                try:
                    got += self._connection.recv(1 << 16)
                except SSL.ZeroReturnError:
                    self.ended = "close_notify"
                except SSL.Error as error:
                    if isinstance(error, WantRead):
                        raise
                    self.ended = error.args[0][0][2]
        return got

    def close(self) -> bytes:
        """Return its close_notify."""
        self._connection.shutdown()
        return self._tls.flight()


def shaken(hosts: Hosts, *, dialing: bool) -> tuple[RecordLayer, PyOpensslPeer]:
    """Return our end, which is ``dialing`` or not, and a peer, after a handshake in memory."""
    dialer = TlsConnection(hosts.a.client, dialing=True)
    acceptor = TlsConnection(hosts.b.server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer), (dialer, acceptor)):
        with suppress(WantRead):
            end.handshake()
        other.feed(end.flight())
    acceptor.handshake()
    ours, theirs = (dialer, acceptor) if dialing else (acceptor, dialer)
    sent = 0
    if not dialing:
        tickets = ours.flight()
        sent = count_records(tickets)
        theirs.feed(tickets)
    keys = keys_of(ours.cipher, ours.secrets, dialing=dialing, sent=sent, received=0)
    return RecordLayer(keys), PyOpensslPeer(theirs)

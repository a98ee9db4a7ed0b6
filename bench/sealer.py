"""TLS records made by hand: any content, any number of KeyUpdates."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes

from tunnel.transport.key_schedule import Direction, expand_label
from tunnel.transport.openssl import TlsConnection
from tunnel.transport.records import seal
from tunnel.transport.tls_messages import DATA, HANDSHAKE, KEY_UPDATE

SUITE = "TLS_AES_256_GCM_SHA384"


class Sealer:
    """Records of the dialing side, one behind the other, under the keys of ``tls``: those of ``SUITE``."""

    def __init__(self, tls: TlsConnection) -> None:
        self._cipher = tls.cipher
        self._secret = tls.secrets["CLIENT_TRAFFIC_SECRET_0"]
        self._sent = 0

    def data(self, content: bytes) -> bytes:
        """Return a record of application data."""
        return self.record(DATA, content)

    def update(self, *, asking: bool) -> bytes:
        """Return a KeyUpdate (RFC 8446 section 4.6.3), ``asking`` for one in return; new keys follow."""
        record = self.record(HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 1, asking]))
        self._secret = expand_label(self._secret, "traffic upd", 48, hashes.SHA384())
        self._sent = 0
        return record

    def record(self, kind: int, content: bytes) -> bytes:
        """Return a record of any type."""
        record = seal(self._cipher, Direction(self._secret, self._sent), kind, content)
        self._sent += 1
        return record

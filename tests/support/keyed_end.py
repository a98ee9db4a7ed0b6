"""One end of a connection with records of the compiled engine and a fixed key."""

from __future__ import annotations

import socket

from tests.support.reference_records import Secret
from tunnel.engine.binding import SUITES, Provider
from tunnel.engine.compiled import MOST_BYTES, CompiledOpener, CompiledSealer, Control, Fault
from tunnel.engine.transfer import RecordSocket, Stop

SECRET = Secret(SUITES[0], bytes(range(32)), bytes(range(12)))


class KeyedEnd:
    """One end with keys for both directions."""

    def __init__(self, provider: Provider, sock: socket.socket) -> None:
        self.records = RecordSocket(provider.library, sock)
        self.sealer = CompiledSealer(provider, *SECRET)
        self.opener = CompiledOpener(provider, *SECRET)
        self.plain = bytearray(MOST_BYTES)

    def receive(self) -> tuple[bytes, Control | Fault | None, Stop]:
        """Receive data: return plain bytes, the event that ended them, and why reading stopped."""
        done = self.records.recv_open(self.opener, self.plain)
        return bytes(self.plain[: done.filled]), done.event, done.stop

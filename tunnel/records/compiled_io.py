"""Record I/O between a lane's queue and its socket on the compiled engine: one call per readiness event.

A call that moves much data evicts Python's working set from the CPU caches. So one call seals and sends up to
a quantum, and one receives and opens.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice

from tunnel.engine.binding import Provider
from tunnel.engine.transfer import Carried, PassedOn, Received, RecordSocket, Stop, Target
from tunnel.net.sockets import reason_of
from tunnel.records.compiled_records import CompiledRecordOpener, CompiledRecordSealer, finding
from tunnel.records.record_io import RecordIo
from tunnel.records.record_layer import RecordLayer, TlsEnd
from tunnel.records.record_sealer import Content
from tunnel.records.tls_messages import CLOSED

MOST_PIECES = 256
"""Maximum number of queued pieces that one call takes: there may be many small ones."""

_QUIET = {Stop.EMPTY, Stop.ENDED, Stop.FAILED}


class CompiledRecordIo(RecordIo):
    """``RecordIo`` on the compiled engine. ``layer`` must use the same ``provider``."""

    def __init__(self, sock: socket.socket, layer: RecordLayer, provider: Provider) -> None:
        super().__init__(sock, layer)
        assert isinstance(layer.sealer, CompiledRecordSealer)  # noqa: S101  guaranteed by the caller
        assert isinstance(layer.opener, CompiledRecordOpener)  # noqa: S101
        self._sealer = layer.sealer
        self._opener = layer.opener
        self._records = RecordSocket(provider.library, sock)

    def send(self, unsent: deque[Content]) -> int:
        """See ``RecordIo.send``."""
        sent = 0
        while True:
            if not self._records.unsent and (unsent or self.layer.owes_update):
                self._records.put(self.layer.update())
            done = self._records.seal_send(self._sealer.key, list(islice(unsent, MOST_PIECES)))
            self._sealer.records = self._sealer.key.number
            _drop(unsent, done.taken)
            sent += done.sent
            self.content_sent += done.gone
            self.full = done.stop is Stop.FULL
            if self.full or not (unsent or self.layer.owes_update):
                return sent

    def enter(self) -> None:
        """Do nothing: no memory is shared with other lanes."""

    def receive(self, plain: memoryview) -> tuple[int, TlsEnd | None, str]:
        """See ``RecordIo.receive``."""
        if self.layer.over is not None:
            return 0, self.layer.over, ""
        return self._took(self._records.recv_open(self._opener.key, plain))

    @property
    def direct(self) -> bool:
        """True, except inside a handshake message, where no data is allowed, and after the end."""
        return not (self.layer.over or self.layer.partial)

    def pass_on(
        self, plain: memoryview, targets: Sequence[Target], most: int
    ) -> tuple[int, TlsEnd | None, str, PassedOn]:
        """See ``RecordIo.pass_on``."""
        passed = self._records.pass_on(self._opener.key, plain, targets, most)
        return *self._took(passed.received), passed

    def _took(self, done: Received) -> tuple[int, TlsEnd | None, str]:
        self._opener.records = self._opener.key.number
        count, over = done.filled, None
        if done.event is not None or self.layer.partial:
            count, over = self.layer.opened(done.records, count, finding(done.event))
        self.more = over is None and done.stop not in _QUIET
        if done.stop is Stop.ENDED:
            return count, over, CLOSED
        if done.stop is Stop.FAILED:
            return count, over, reason_of(OSError(done.error, os.strerror(done.error)))
        return count, over, ""

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> Carried:
        """See ``RecordIo.carry``."""
        done = self._records.carry(self._sealer.key, source, stream, offset, rooms)
        self._sealer.records = self._sealer.key.number
        self.content_sent += done.sent.gone
        self.full = done.sent.stop is Stop.FULL
        return done

    def end(self, alert: int | None = None) -> None:
        """See ``RecordIo.end``."""
        self._records.put(self.layer.end(alert))


def _drop(unsent: deque[Content], count: int) -> None:
    """Remove the first ``count`` bytes from the queue."""
    while unsent and count >= len(unsent[0]):
        count -= len(unsent.popleft())
    if count:
        unsent[0] = memoryview(unsent[0])[count:]

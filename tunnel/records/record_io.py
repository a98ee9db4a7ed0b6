"""Record I/O between a lane's queue and its socket, in Python: up to a quantum per call.

Sending: the pump's memory → records (16 KiB) in one buffer → one ``send`` for many of them. Receiving: one
``recv`` for many records → decrypted into one contiguous buffer, the lane's. Nothing else is copied, except
incomplete records. Measurements: docs/decisions/0058-records-of-our-own.md.
"""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from tunnel.engine.transfer import Carried, PassedOn, Target
from tunnel.net.sockets import reason_of
from tunnel.records.record_layer import RecordLayer, TlsEnd
from tunnel.records.record_opener import ready
from tunnel.records.record_sealer import Content, sealed_size
from tunnel.records.tls_messages import CLOSED, RECORD
from tunnel.units import KIB

BATCH = 512 * KIB
"""Bytes that are sealed or opened before they are passed on, so that they stay in the L2 cache."""

SPARE = sealed_size(5)
"""Bytes that ``seal`` may write in addition to the records of its pieces: a KeyUpdate."""

LARGE = BATCH + 2 * KIB
"""Buffer size for a batch of records, including their overhead."""

FEW = 4 * KIB
"""Send buffer of a lane that carries no payload yet: a refused connection costs no more."""


class RecordIo(ABC):
    """Moves records between queues and ``sock`` (non-blocking). Both directions are independent."""

    def __init__(self, sock: socket.socket, layer: RecordLayer) -> None:
        self._sock = sock
        self.layer = layer
        self.full = False
        """Whether the socket buffer is full."""
        self.more = False
        """Whether another ``receive`` returns more without waiting for the socket."""
        self.content_sent = 0
        """Bytes of content whose records were sent completely."""

    @abstractmethod
    def send(self, unsent: deque[Content]) -> int:
        """Seal and send ``unsent`` from the left, until it is empty or the socket is full.

        Returns the number of bytes sent. Raises OSError when the socket failed, LaneError when the key limit
        is reached.
        """

    @abstractmethod
    def receive(self, plain: memoryview) -> tuple[int, TlsEnd | None, str]:
        """Open received records into ``plain`` (BATCH bytes or more), up to a quantum.

        Returns the number of bytes of content, what ended TLS if anything did, and why the socket delivers no
        more, "" while it is up. Must not be called after an end unless there is ``more``.
        """

    @property
    def direct(self) -> bool:
        """Whether ``carry`` and ``pass_on`` can be used."""
        return False

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> Carried:
        """Send payload read from ``source``: see ``RecordSocket``."""
        raise NotImplementedError

    def pass_on(
        self, plain: memoryview, targets: Sequence[Target], most: int
    ) -> tuple[int, TlsEnd | None, str, PassedOn]:
        """Like ``receive``, but write payload of streams to ``targets``: see ``RecordSocket``."""
        raise NotImplementedError

    @abstractmethod
    def enter(self) -> None:
        """Move to the current thread, whose lanes may share buffers."""

    @abstractmethod
    def end(self, alert: int | None = None) -> None:
        """Queue an alert, or close_notify, behind unsent records: it ends our direction."""


class _Memory(threading.local):
    """The receive buffer shared by all lanes of a thread: empty between two loop iterations."""

    def __init__(self) -> None:
        self.cipher = memoryview(bytearray(BATCH))


_shared = _Memory()
_NOTHING = memoryview(b"")


class PythonRecordIo(RecordIo):
    """``RecordIo`` in Python."""

    def __init__(self, sock: socket.socket, layer: RecordLayer) -> None:
        super().__init__(sock, layer)
        self._incoming = _shared.cipher
        self._outgoing = memoryview(bytearray(FEW))  # not shared: it holds unsent bytes
        self._rest = _NOTHING  # the unsent part of it
        self._sealed = 0  # bytes of content in that batch
        self._unopened = _NOTHING  # received and not opened yet, not shared
        self._whole = False  # it contains complete records

    def enter(self) -> None:
        """Use the buffer of the current thread, which is empty between two loop iterations."""
        self._incoming = _shared.cipher

    def send(self, unsent: deque[Content]) -> int:
        """See ``RecordIo.send``. All segments but the last are full."""
        sent, self.full = 0, False
        try:
            while not self.full and self._prepare(unsent):
                count = self._sock.send(self._rest, socket.MSG_MORE if unsent else 0)
                sent += count
                self._rest = self._rest[count:]
                self.full = bool(self._rest)
        except BlockingIOError:
            self.full = True
        return sent

    def _prepare(self, unsent: deque[Content]) -> bool:
        """Seal the next batch if nothing sealed is pending; return whether there is something to send."""
        if not self._rest:
            self.content_sent += self._sealed
            self._sealed = 0
            if unsent or self.layer.owes_update:
                pieces = self._gather(unsent)
                self._sealed = sum(map(len, pieces))
                self._rest = self._outgoing[: seal(self.layer, pieces, self._outgoing)]
        return bool(self._rest)

    def _gather(self, unsent: deque[Content]) -> list[Content]:
        """Take a batch from the queue, in whole records where possible."""
        pieces: list[Content] = []
        left = len(self._outgoing) - SPARE
        while unsent:
            piece = unsent[0]
            if (size := sealed_size(len(piece))) <= left:
                pieces.append(unsent.popleft())
                left -= size
                continue
            if len(self._outgoing) == FEW:  # the lane carries more than control frames
                self._outgoing = memoryview(bytearray(LARGE))
                left += LARGE - FEW
                continue
            if whole := left // sealed_size(RECORD) * RECORD:
                pieces.append(memoryview(piece)[:whole])
                unsent[0] = memoryview(piece)[whole:]
            break
        return pieces

    def end(self, alert: int | None = None) -> None:
        """See ``RecordIo.end``."""
        record = self.layer.end(alert)
        self._rest = memoryview(bytes(self._rest) + record)

    def receive(self, plain: memoryview) -> tuple[int, TlsEnd | None, str]:
        """See ``RecordIo.receive``. Complete records left by the last call are opened first."""
        cut, emptied, own = "", True, self._whole
        if own:
            cipher = self._unopened
        else:
            cipher, emptied, cut = self._fill()
        taken, count, over = unseal(self.layer, cipher, plain)
        self._keep(cipher[taken:], own=own)
        self.more = over is None and (self._whole or not emptied)
        return count, over, cut

    def _fill(self) -> tuple[memoryview, bool, str]:
        """Read a batch behind the unopened bytes; return it, whether the socket is empty, and why it ended.

        Reads until the socket is empty: uvloop reports a reset only once, with the bytes before it.
        """
        view, size = self._incoming, len(self._unopened)
        view[:size] = self._unopened
        try:
            while size < BATCH:
                if not (count := self._sock.recv_into(view[size:])):
                    return view[:size], True, CLOSED
                size += count
        except BlockingIOError:
            return view[:size], True, ""
        except OSError as error:
            return view[:size], True, reason_of(error)
        return view[:size], False, ""

    def _keep(self, rest: memoryview, *, own: bool) -> None:
        """Keep the unopened rest of a batch; copy it unless the buffer is our ``own``."""
        self._whole = ready(rest)
        if not (own and self._whole):
            rest = memoryview(bytes(rest))
        self._unopened = rest


def seal(layer: RecordLayer, pieces: Sequence[Content], out: memoryview) -> int:
    """Like ``RecordSealer.seal``, after a pending KeyUpdate: ``out`` must hold ``SPARE`` more.

    Raises LaneError after ``RecordLayer.end``.
    """
    if not (layer.owes_update or layer.ended):
        return layer.sealer.seal(pieces, out)
    update = layer.update()
    position = len(update)
    out[:position] = update
    return position + layer.sealer.seal(pieces, out[position:])


def unseal(layer: RecordLayer, cipher: memoryview, plain: memoryview) -> tuple[int, int, TlsEnd | None]:
    """Like ``RecordOpener.open``, but ``layer`` processes what is not data, and ends at what ends TLS.

    If not all bytes were taken, the rest may contain complete records: see ``ready``. After a TlsEnd nothing
    is taken.
    """
    if layer.over is not None:
        return 0, 0, layer.over
    opener = layer.opener
    before = opener.records
    taken, filled, found = opener.open(cipher, len(cipher), plain)
    if found is None and not layer.partial:
        return taken, filled, None
    return taken, *layer.opened(opener.records - before, filled, found)

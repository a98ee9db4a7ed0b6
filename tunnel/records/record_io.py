"""Records between a lane's queue and its socket: as many as a turn allows in each call, in Python.

How a byte leaves: the pump's memory → records (16 KiB) of it in one buffer → one ``send`` for many of them.
How it arrives: one ``recv`` for many records → decrypted into one contiguous buffer, the lane's. No byte is
copied beside that, but of records that are not whole yet. docs/decisions/0058-records-of-our-own.md has the
figures.
"""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from tunnel.engine.transfer import Carried, PassedOn, Target
from tunnel.net.sockets import reason_of
from tunnel.records.record_layer import SPARE, RecordLayer, TlsEnd
from tunnel.records.record_opener import ready
from tunnel.records.record_sealer import Content, sealed_size
from tunnel.records.tls_messages import CLOSED, RECORD
from tunnel.units import KIB

BATCH = 512 * KIB
"""Bytes that are sealed or opened before they are passed on: they stay in a level-2 cache."""

LARGE = BATCH + 2 * KIB
"""Memory for a batch of records, with what is around their content."""

FEW = 4 * KIB
"""Memory for what a lane sends that carries no payload: one that is refused costs no more."""


class RecordIo(ABC):
    """One connection's ``sock``, which does not block, and its ``layer``. Both directions are independent."""

    def __init__(self, sock: socket.socket, layer: RecordLayer) -> None:
        self._sock = sock
        self.layer = layer
        self.full = False
        """Whether the socket takes no more for now."""
        self.more = False
        """Whether ``receive`` has more to say at once."""
        self.content_sent = 0
        """Bytes of content of which the socket took all records."""

    @abstractmethod
    def send(self, unsent: deque[Content]) -> int:
        """Seal what is at the left of ``unsent`` and send it, until that is empty or the socket is full.

        Returns how many bytes the socket took. Raises OSError when it failed, LaneError when nothing more may
        be sealed.
        """

    @abstractmethod
    def receive(self, plain: memoryview) -> tuple[int, TlsEnd | None, str]:
        """Open into ``plain`` (BATCH bytes or more) what a turn allows of what came.

        Returns how many bytes of content that was, what ended TLS if anything did, and why nothing more can
        come over the socket, "" while it can. Not to be called behind an end, unless there is ``more``.
        """

    @property
    def direct(self) -> bool:
        """Whether ``carry`` and ``pass_on`` work."""
        return False

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> Carried:
        """Send payload that ``source`` has: see ``RecordSocket``."""
        raise NotImplementedError

    def pass_on(
        self, plain: memoryview, targets: Sequence[Target], most: int
    ) -> tuple[int, TlsEnd | None, str, PassedOn]:
        """As ``receive``, but payload of streams goes to ``targets``: see ``RecordSocket``."""
        raise NotImplementedError

    @abstractmethod
    def enter(self) -> None:
        """Go on in the thread that runs, which may share memory among its lanes."""

    @abstractmethod
    def end(self, alert: int | None = None) -> None:
        """Let the next ``send`` end our direction, behind what waits: by an alert, or by close_notify."""


class _Memory(threading.local):
    """What all lanes of a thread read into: nothing stays there between two turns of its loop."""

    def __init__(self) -> None:
        self.cipher = memoryview(bytearray(BATCH))


_shared = _Memory()
_NOTHING = memoryview(b"")


class PythonRecordIo(RecordIo):
    """See ``RecordIo``."""

    def __init__(self, sock: socket.socket, layer: RecordLayer) -> None:
        super().__init__(sock, layer)
        self._incoming = _shared.cipher
        self._outgoing = memoryview(bytearray(FEW))  # its own: it keeps what the socket did not take
        self._rest = _NOTHING  # what is not sent of it
        self._sealed = 0  # bytes of content of which that is the end
        self._unopened = _NOTHING  # what came and is not opened yet, in memory of its own
        self._whole = False  # there are whole records in it

    def enter(self) -> None:
        """Use the memory of the thread that runs: between two turns there is nothing in it."""
        self._incoming = _shared.cipher

    def send(self, unsent: deque[Content]) -> int:
        """See there. Until the last, segments are full."""
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
        """Have something to send at hand, sealed; whether there is anything."""
        if not self._rest:
            self.content_sent += self._sealed
            self._sealed = 0
            if unsent or self.layer.owes_update:
                pieces = self._gather(unsent)
                self._sealed = sum(map(len, pieces))
                self._rest = self._outgoing[: self.layer.seal(pieces, self._outgoing)]
        return bool(self._rest)

    def _gather(self, unsent: deque[Content]) -> list[Content]:
        """Take a batch off the queue, whole records if there are as many."""
        pieces: list[Content] = []
        left = len(self._outgoing) - SPARE
        while unsent:
            piece = unsent[0]
            if (size := sealed_size(len(piece))) <= left:
                pieces.append(unsent.popleft())
                left -= size
                continue
            if len(self._outgoing) == FEW:  # it carries more than frames of control
                self._outgoing = memoryview(bytearray(LARGE))
                left += LARGE - FEW
                continue
            if whole := left // sealed_size(RECORD) * RECORD:
                pieces.append(memoryview(piece)[:whole])
                unsent[0] = memoryview(piece)[whole:]
            break
        return pieces

    def end(self, alert: int | None = None) -> None:
        """See there."""
        record = self.layer.end(alert)
        self._rest = memoryview(bytes(self._rest) + record)

    def receive(self, plain: memoryview) -> tuple[int, TlsEnd | None, str]:
        """See there. Whole records that a turn was too short for come before what the socket has."""
        cut, emptied, own = "", True, self._whole
        if own:
            cipher = self._unopened
        else:
            cipher, emptied, cut = self._fill()
        taken, count, over = self.layer.open(cipher, len(cipher), plain)
        self._keep(cipher[taken:], own=own)
        self.more = over is None and (self._whole or not emptied)
        return count, over, cut

    def _fill(self) -> tuple[memoryview, bool, str]:
        """Read a batch behind what is not opened yet; whether that was all, and why no more will come.

        Until the socket says that it is empty: uvloop tells of a reset only once, with the bytes before it.
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
        """Keep what is not opened of a batch; its memory, if not ``own``, will be used again."""
        self._whole = ready(rest)
        if not (own and self._whole):
            rest = memoryview(bytes(rest))
        self._unopened = rest

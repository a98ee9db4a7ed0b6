"""A pump whose bytes stay in the kernel: socket → pipe → lane, and lane → pipe → socket, by ``splice``.

A read becomes a frame in a pipe of its own, and the stream's ``RetransmitPipe`` (the keeper) keeps it until
it is delivered (see ``kernel_payload``). When that pipe is full, reading waits for the peer's next credit. As
that may take long if little is kept, the pipe is copied to memory after a moment; then only the window bounds
data in flight. Received payload that does not fit into the socket moves to a pipe of this stream (the store),
and to memory if that is full, bounded by the window: a hypervisor that does not read stalls no other stream.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from tunnel.lanes import kernel_payload
from tunnel.lanes.kernel_payload import MOST_KEPT, PAYS, Pipe, PipeSegment, PipeSlice, RetransmitPipe
from tunnel.relay.pump import Pump, PumpHandler, refuse_descriptors
from tunnel.wire.payload import Memory, Payload, in_memory

ROOM_PATIENCE = 0.01
"""Seconds that a full keeper waits for credit before it is copied to memory."""


class SplicedPump(Pump):
    """A pump for links with kernel lanes. Without pipes of the usual size it reads into memory."""

    def __init__(self, sock: socket.socket, number: int, target: str, owner: PumpHandler) -> None:
        super().__init__(sock, number, target, owner)
        self._keeper: RetransmitPipe | None = None
        self._intake: Pipe | None = None
        with suppress(OSError):
            intake, keeper = kernel_payload.take_pipe(), RetransmitPipe()
            # Smaller ones would stall every few bytes.
            if min(intake.size, keeper.size) >= kernel_payload.PIPE_SIZE:
                self._intake, self._keeper = intake, keeper
                refuse_descriptors(sock)
        self._ahead = 0  # bytes in the intake pipe
        self._relief: asyncio.TimerHandle | None = None  # while the keeper has no room for them
        self._store: Pipe | None = None
        self._stored = 0  # bytes in the store, ahead of those in memory
        self._written = 0  # bytes written since the last report
        self._unwritten: OSError | None = None  # a write error, until it is reported

    # From the socket.

    @property
    def forwards(self) -> bool:
        """False: payload stays in the kernel."""
        return False

    @property
    def sink(self) -> int:
        """-1: payload must go through ``deliver``."""
        return -1

    def read(self, limit: int) -> Payload | None:
        """Like ``Pump.read``. None also while the keeper is full: ``release`` or a timeout makes room."""
        keeper, intake = self._keeper, self._intake
        if keeper is None or intake is None:
            return super().read(limit)
        if not self._ahead:
            if self._gathering():
                return None
            try:
                self._ahead = intake.fill(self._sock.fileno(), limit)
            except BlockingIOError:
                self.start_reading()
                return None
            self._took(self._ahead, limit)
            if not self._ahead:
                return b""
        kept = keeper.keep(intake, min(limit, self._ahead))
        if not kept:
            self._relieve_later(keeper)
            return None
        self._ahead -= kept
        return self._parcel(keeper, intake, kept)

    def _parcel(self, keeper: RetransmitPipe, intake: Pipe, size: int) -> PipeSegment | bytes:
        """Take the kept bytes out of the intake pipe; if it holds no others, replace the pipe."""
        load: Pipe | bytes = intake
        if self._ahead:
            load = kernel_payload.cut_pipe(intake, size)
        else:
            try:
                self._intake = kernel_payload.take_pipe()
            except OSError:
                load = intake.read(size)
        return load if isinstance(load, bytes) else PipeSegment(keeper, keeper.end - size, size, load)

    def _relieve_later(self, keeper: RetransmitPipe) -> None:
        if self._relief is None:
            self._relief = self._loop.call_later(ROOM_PATIENCE, self._relieve, keeper)

    def _relieve(self, keeper: RetransmitPipe) -> None:
        keeper.relieve()
        self._has_room()

    def _has_room(self) -> None:
        if self._relief is not None:
            self._relief.cancel()
            self._relief = None
            self._owner.on_readable(self)

    def release(self, offset: int) -> None:
        """Free what the peer delivered, before ``offset``."""
        super().release(offset)
        if self._keeper is not None:
            self._keeper.release(offset)
        self._has_room()

    # To the socket.

    def flush(self) -> None:
        """Write the queued payload; slices of a lane's pipe stay in the kernel as far as there is room."""
        fresh, self._fresh = self._fresh, []
        for data in fresh:
            if isinstance(data, PipeSlice):
                self._pass_on(data)
                if not data.left or self._unwritten is not None:
                    continue
            self._pass_copied(in_memory(data))
        self._report_written()

    def _pass_copied(self, data: Memory) -> None:
        if not self.backlog and self._unwritten is None:
            data = data[self._attempt(self._sock.send, data) :]
        if len(data) and self._unwritten is None:
            self._delay(0)
            self._append(data)

    def _pass_on(self, lent: PipeSlice) -> None:
        if not self.backlog and self._unwritten is None:
            self._attempt(lent.send, self._sock.fileno())
        if lent.left and not self._waiting and self._unwritten is None:
            self._put_by(lent)

    def _put_by(self, lent: PipeSlice) -> None:
        """Move what fits into the store, which grows only while its content is worth its pages."""
        if self._store is None:
            try:
                self._store = kernel_payload.take_pipe()
            except OSError:
                return
        store = self._store
        moved = lent.move(store)
        while lent.left and (self._stored + moved) * PAYS >= store.size < MOST_KEPT:
            if not store.grow(2 * store.size):
                break
            moved += lent.move(store)
        if moved:
            self._delay(moved)
            self._stored += moved

    def _delay(self, count: int) -> None:
        if not self.backlog:
            self._loop.add_writer(self._sock, self._writable)
        self.backlog += count

    def _attempt(self, write: Callable[..., int], *arguments: object) -> int:
        """Return how many bytes were written. An error is reported later, because that may close the pump."""
        try:
            count = write(*arguments)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._unwritten = error
            return 0
        self._written += count
        return count

    def _report_written(self) -> None:
        count, self._written = self._written, 0
        self._report(count)
        if self._unwritten is not None and not self.broken:
            self._give_up(self._unwritten)

    def _writable(self) -> None:
        if self._stored:
            self._empty_store()
        if self.broken or self._stored:
            return
        if self._waiting:
            super()._writable()
        else:
            self._loop.remove_writer(self._sock)

    def _empty_store(self) -> None:
        while self._stored and self._store is not None and self._unwritten is None:
            count = self._attempt(self._store.empty, self._sock.fileno(), self._stored)
            if not count:
                break
            self._stored -= count
            self.backlog -= count
        self._report_written()

    def _forget(self) -> None:
        super()._forget()
        self._store, self._stored, self._written, self._unwritten = None, 0, 0, None

    def _unwatch(self) -> None:
        super()._unwatch()
        self._intake = self._keeper = None
        if self._relief is not None:
            self._relief.cancel()
            self._relief = None

"""A pump with a hypervisor's end of its socket, and an owner that records its calls."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from tests.support.network import tcp_pair
from tests.support.waiting import until
from tunnel.lanes.kernel_payload import Pipe, PipeSlice
from tunnel.relay.pump import Pump
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.units import MIB
from tunnel.wire.payload import copied

NOISE = random.Random(49152).randbytes(8 * MIB)


class Owner:
    """Records the calls of a pump."""

    def __init__(self) -> None:
        self.readable = 0
        self.delivered: list[int] = []
        self.errors: list[OSError] = []
        self.resets: list[OSError] = []
        self.on_error: Callable[[Pump], None] = lambda pump: None

    def on_readable(self, pump: Pump) -> None:
        self.readable += 1

    def on_delivered(self, pump: Pump, count: int) -> None:
        self.delivered.append(count)

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        self.errors.append(error)
        self.on_error(pump)

    def on_reset(self, pump: Pump, error: OSError) -> None:
        self.resets.append(error)
        self.on_write_error(pump, error)


class Local:
    """A pump and the hypervisor's end of its socket."""

    def __init__(self, kind: str, make: type[Pump] = Pump) -> None:
        self.owner = Owner()
        ours, self.hypervisor = tcp_pair() if kind == "tcp" else socket.socketpair()
        self.hypervisor.setblocking(False)
        self.pump = make(ours, 7, "tcp:127.0.0.1:49152", self.owner)

    def read(self, limit: int) -> bytes | None:
        """Return a copy of what the pump reads."""
        data = self.pump.read(limit)
        return None if data is None else copied(data)

    def deliver(self, *pieces: bytes) -> None:
        """Deliver pieces and flush, like a lane's batch."""
        if isinstance(self.pump, SplicedPump):
            self._lend_pipe(self.pump, pieces)
        else:
            self._lend_memory(pieces)

    @staticmethod
    def _lend_pipe(pump: SplicedPump, pieces: Sequence[bytes]) -> None:
        """Deliver pieces in one pipe, in order; then drop what was not taken, like a lane."""
        pipe = Pipe()
        lent = [PipeSlice(pipe, os.write(pipe.sink, piece)) for piece in pieces]
        assert [*map(len, lent)] == [*map(len, pieces)]
        for each in lent:
            pump.deliver(each)
        pump.flush()
        for each in lent:
            each.drop()

    def _lend_memory(self, pieces: Sequence[bytes]) -> None:
        """Deliver views of memory that is overwritten afterwards."""
        memory = bytearray(b"".join(pieces))
        start = 0
        for piece in pieces:
            self.pump.deliver(memoryview(memory)[start : start + len(piece)])
            start += len(piece)
        self.pump.flush()
        memory[:] = bytes(len(memory))

    def stuff(self) -> bytes:
        """Deliver until the socket accepts no more; return all delivered data."""
        sent = b""
        while not self.pump.backlog:
            piece = NOISE[len(sent) : len(sent) + 300_000]
            assert piece, "a socket accepted 8 MiB without being read"
            self.deliver(piece)
            sent += piece
        return sent

    def take(self) -> bytes:
        """Return what the hypervisor can read now."""
        data = b""
        with suppress(BlockingIOError):
            while chunk := self.hypervisor.recv(MIB):
                data += chunk
        return data

    async def take_all(self, size: int) -> bytes:
        data = b""

        def more() -> bool:
            nonlocal data
            data += self.take()
            return len(data) >= size

        await until(more, "for bytes")
        return data


async def deliver_until_told(local: Local) -> None:
    """Deliver until an error is reported: TCP accepts the first bytes after the peer has closed."""

    def told() -> object:
        if not local.owner.errors:
            local.deliver(b"x")
        return local.owner.errors

    await until(told, "for the error")

"""A relay on aiofastnet: asyncio's transports and protocols made anew in C, with TLS by OpenSSL itself.

A contestant, not part of the product: the cheapest relay in Python that we know of beside our own. Written as
its documentation has it, with protocols and flow control of asyncio. Each protocol reads into one buffer of
its own, and the other transport copies only what its socket did not take. Of turns of 128 KiB,
256 KiB and 1 MiB, those of 128 KiB cost the least CPU.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, cast

import aiofastnet
import uvloop

from tunnel.bench.measure.asyncio_relay import RelaySide, arguments_of_side

TURN = 128 << 10
"""Bytes that are read, and handed on, at once."""

_RECORD = 16 << 10
_RECORDS = TURN // _RECORD * (_RECORD + 64)
"""Bytes of a turn's TLS records; 64 more for each, as aiofastnet has it."""


class FastnetEnd(asyncio.BufferedProtocol):
    """One of the two connections of a stream: what it reads, its ``other`` sends."""

    def __init__(self) -> None:
        self.other: FastnetEnd
        self.transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(TURN))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have what waits here stop the other one at once: nothing is to be copied twice."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=1)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other one as well."""
        if self.other.transport is not None:
            self.other.transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to: the whole buffer, as what was in it has been sent or copied."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Send what came."""
        if self.other.transport is not None:
            self.other.transport.write(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        """End both: TLS connections have no half of them closed."""
        return False

    def pause_writing(self) -> None:
        """Let the other one read no more."""
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let it read again."""
        if self.other.transport is not None:
            resume(self.other.transport)


class FastnetEntry(FastnetEnd):
    """The connection that was accepted; it reads nothing before the other one is there."""

    def __init__(self, side: RelaySide) -> None:
        super().__init__()
        self.other = FastnetEnd()
        self.other.other = self
        self._side = side
        self.dialing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to where the side connects."""
        super().connection_made(transport)
        accepted = cast("asyncio.Transport", transport)
        accepted.pause_reading()
        self.dialing = asyncio.get_running_loop().create_task(self._dial(accepted))

    async def _dial(self, accepted: asyncio.Transport) -> None:
        try:
            await connect(self._side, self.other)
        except OSError:  # ssl.SSLError as well
            accepted.abort()
            raise
        resume(accepted)


def resume(transport: asyncio.Transport) -> None:
    """Let a transport read again, also what it has read from its socket already.

    aiofastnet 1.2.0 reads on when its socket has more, and forgets records that it had not opened when it was
    paused: without this a stream stands still whose last bytes are among them.
    """
    transport.resume_reading()
    if open_what_is_left := getattr(transport, "_retry_ssl_read", None):  # of TLS transports
        asyncio.get_running_loop().call_soon(open_what_is_left)


def _tls(side: RelaySide, **more: str) -> dict[str, Any]:
    return {"ssl": side.tls(), "ssl_incoming_bio_size": _RECORDS, "ssl_outgoing_bio_size": _RECORDS, **more}


async def connect(side: RelaySide, protocol: FastnetEnd) -> None:
    """Connect ``protocol`` to where ``side`` connects. Raises OSError."""
    loop, where = asyncio.get_running_loop(), side.connect
    if where.is_unix:
        await aiofastnet.create_unix_connection(loop, lambda: protocol, where.path)
        return
    tls = _tls(side, server_hostname=side.peer) if side.encrypts else {}
    await aiofastnet.create_connection(loop, lambda: protocol, where.host, where.port, **tls)


async def serve(side: RelaySide) -> None:
    """Accept for ever and carry each connection to where ``side`` connects."""
    loop, where = asyncio.get_running_loop(), side.listen
    accept = partial(FastnetEntry, side)
    if where.is_unix:
        server = await aiofastnet.create_unix_server(loop, accept, where.path)
    else:
        tls = {} if side.encrypts else _tls(side)
        server = await aiofastnet.create_server(loop, accept, where.host, where.port, **tls)
    await server.serve_forever()


def main() -> None:
    """Run one side until killed."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.fastnet", description=__doc__)
    side = RelaySide(**arguments_of_side(parser))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, suppress(KeyboardInterrupt):
        runner.run(serve(side))


if __name__ == "__main__":
    main()

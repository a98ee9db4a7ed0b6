"""A relay on aiofastnet: asyncio's transports and protocols reimplemented in C, with TLS by OpenSSL.

A contestant, not part of the product: the cheapest known relay in Python beside mtunnel. Written as in its
documentation, with asyncio's protocols and flow control. Each protocol reads into its own buffer, and the
other transport copies only data that its socket did not accept. Of reads of 128 KiB, 256 KiB and 1 MiB,
those of 128 KiB cost the least CPU.
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
"""Bytes per read, passed to the other transport in one call."""

_RECORD = 16 << 10
_RECORDS = TURN // _RECORD * (_RECORD + 64)
"""Bytes of the TLS records of one read, with 64 more for each, as in aiofastnet."""


class FastnetEnd(asyncio.BufferedProtocol):
    """One of the two connections of a stream: data that it reads is sent by its ``other``."""

    def __init__(self) -> None:
        self.other: FastnetEnd
        self.transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(TURN))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make any buffered data pause the other connection, so that nothing is copied twice."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other connection as well."""
        if self.other.transport is not None:
            self.other.transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the whole buffer: its previous content has been sent or copied."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Send the received data on the other connection."""
        if self.other.transport is not None:
            self.other.transport.write(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        """Close both: TLS connections here have no half-close."""
        return False

    def pause_writing(self) -> None:
        """Pause reading on the other connection."""
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading on the other connection."""
        if self.other.transport is not None:
            resume(self.other.transport)


class FastnetEntry(FastnetEnd):
    """The accepted connection; it does not read before the other one is established."""

    def __init__(self, side: RelaySide) -> None:
        super().__init__()
        self.other = FastnetEnd()
        self.other.other = self
        self._side = side
        self.dialing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial the connect address of the side."""
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
    """Resume reading of a transport, including data that it has already read from its socket.

    aiofastnet 1.2.0 resumes only when its socket becomes readable, and leaves records that were not decrypted
    when it was paused: without this a stream stalls whose last bytes are among them.
    """
    transport.resume_reading()
    if open_what_is_left := getattr(transport, "_retry_ssl_read", None):  # of TLS transports
        asyncio.get_running_loop().call_soon(open_what_is_left)


def _tls(side: RelaySide, **more: str) -> dict[str, Any]:
    return {"ssl": side.tls(), "ssl_incoming_bio_size": _RECORDS, "ssl_outgoing_bio_size": _RECORDS, **more}


async def connect(side: RelaySide, protocol: FastnetEnd) -> None:
    """Connect ``protocol`` to the connect address of ``side``. Raises OSError."""
    loop, where = asyncio.get_running_loop(), side.connect
    if where.is_unix:
        await aiofastnet.create_unix_connection(loop, lambda: protocol, where.path)
        return
    tls = _tls(side, server_hostname=side.peer) if side.encrypts else {}
    await aiofastnet.create_connection(loop, lambda: protocol, where.host, where.port, **tls)


async def serve(side: RelaySide) -> None:
    """Accept connections forever and relay each to the connect address of ``side``."""
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

"""The obvious relay: asyncio streams with TLS, on asyncio's own loop or on uvloop.

A contestant, not part of the product: two of these processes carry plaintext from one side to the other
over mutual TLS 1.3. Tuned as far as streams allow: of 64, 128, 256 KiB and 1 MiB, chunks of 256 KiB cost
the least CPU with both loops, and freed memory is kept, as in mtunnel.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.host.malloc import tune_malloc

CHUNK = 256 << 10

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@dataclass(frozen=True)
class RelaySide:
    """One side of the relay: its listen and connect addresses, and which of the two uses TLS."""

    encrypts: bool
    listen: ProgramAddress
    connect: ProgramAddress
    ca: Path
    cert: Path
    key: Path
    peer: str

    def tls(self) -> ssl.SSLContext:
        """Return a context for TLS 1.3 with both certificates required."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if self.encrypts else ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.cert, self.key)
        return context


async def relay(side: RelaySide) -> None:
    """Accept connections forever and relay each to ``side.connect``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await _connect(side)
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(_pump(reader, far_writer))
            pumps.create_task(_pump(far_reader, writer))

    server = await _serve(side, handle)
    await server.serve_forever()


async def _serve(side: RelaySide, handle: Handler) -> asyncio.Server:
    context = None if side.encrypts else side.tls()
    if side.listen.is_unix:
        return await asyncio.start_unix_server(handle, side.listen.path, ssl=context, limit=CHUNK)
    return await asyncio.start_server(  # noqa: TID251  the contestant IS asyncio streams
        handle, side.listen.host, side.listen.port, ssl=context, limit=CHUNK
    )


async def _connect(side: RelaySide) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if side.connect.is_unix:
        return await asyncio.open_unix_connection(side.connect.path, limit=CHUNK)
    context = side.tls() if side.encrypts else None
    return await asyncio.open_connection(  # noqa: TID251  the contestant IS asyncio streams
        side.connect.host,
        side.connect.port,
        ssl=context,
        server_hostname=side.peer if side.encrypts else None,
        limit=CHUNK,
    )


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=CHUNK)
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


def arguments_of_side(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Parse the command line of a side: the fields of ``RelaySide`` and the arguments of ``parser``."""
    parser.add_argument("role", choices=["encrypt", "decrypt"])
    parser.add_argument("listen", type=ProgramAddress.parse)
    parser.add_argument("connect", type=ProgramAddress.parse)
    for name in ("ca", "cert", "key"):
        parser.add_argument(name, type=Path)
    parser.add_argument("peer", help="name in the other side's certificate")
    arguments = vars(parser.parse_args())
    return {"encrypts": arguments.pop("role") == "encrypt", **arguments}


def main() -> None:
    """Run one side until killed."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.asyncio_relay", description=__doc__)
    parser.add_argument("loop", choices=["asyncio", "uvloop"])
    tune_malloc()
    arguments = arguments_of_side(parser)
    factory = uvloop.new_event_loop if arguments.pop("loop") == "uvloop" else None
    side = RelaySide(**arguments)
    with asyncio.Runner(loop_factory=factory) as runner, suppress(KeyboardInterrupt):
        runner.run(relay(side))


if __name__ == "__main__":
    main()

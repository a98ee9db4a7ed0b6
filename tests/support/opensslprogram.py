"""The program ``openssl`` as the other end of a TLS connection: another implementation.

It sends the lines on its input, except for commands of one letter: ``k`` KeyUpdate, ``K`` KeyUpdate that
requests one in return, ``Q`` quit. See s_client(1) and s_server(1).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.network import CONGESTION
from tests.support.waiting import PATIENCE
from tunnel.net.sockets import tune_lane
from tunnel.tls.contexts import ALPN, TlsFiles


class OpensslProgram:
    """A running ``openssl``. ``said`` is its output so far, including the data that it received."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said = b""
        self._process = process

    async def type(self, line: bytes) -> None:
        """Send a line to its input, in a separate write: it expects commands only at the start of a read."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()

    async def says(self, pattern: bytes) -> re.Match[bytes]:
        """Read until its output matches ``pattern``. Raises AssertionError when it exits before."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not (found := re.search(pattern, self.said)):
                more = await self._process.stdout.read(1 << 16)
                assert more, f"openssl exited without {pattern!r}: {self.said!r}"
                self.said += more
        return found

    async def ended(self) -> int:
        """Wait until it exits; return its exit code."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            self.said += await self._process.stdout.read()
            return await self._process.wait()


@asynccontextmanager
async def openssl(*arguments: str) -> AsyncIterator[OpensslProgram]:
    """Run ``openssl`` with these arguments; it is killed if it outlives the context."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "openssl", *arguments, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield OpensslProgram(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def connected(
    files: TlsFiles, suite: str, *options: str, dialing: bool
) -> AsyncIterator[tuple[OpensslProgram, socket.socket]]:
    """Run ``openssl`` with these certificates; yield it and a connection to it, before the handshake.

    ``dialing``: whether this end dials.
    """
    identity = ["-cert", str(files.cert), "-key", str(files.key), "-CAfile", str(files.ca)]
    common = [*identity, "-tls1_3", "-ciphersuites", suite, "-alpn", ALPN, "-4", *options]
    if dialing:
        async with openssl("s_server", "-accept", "0", "-naccept", "1", "-Verify", "2", *common) as program:
            port = int((await program.says(rb"ACCEPT [^\n]*:(\d+)\n"))[1])
            with socket.create_connection(("127.0.0.1", port)) as sock:
                tune_lane(sock, CONGESTION)
                yield program, sock
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with openssl("s_client", "-connect", address, "-verify", "2", *common) as program:
            listener.setblocking(False)
            sock, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), PATIENCE)
            with sock:
                tune_lane(sock, CONGESTION)
                yield program, sock

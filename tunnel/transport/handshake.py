"""From a connected socket to a TLS connection with a peer whose name is proven.

Nothing behind the handshake is taken out of the socket: OpenSSL reads record by record, and for a kernel
lane ``_ByRecords`` does, because only who sees the records can count them. How much an unauthenticated peer
may make us read is bounded by OpenSSL: 128 KiB for a hello, 100 KiB for certificates.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

from OpenSSL import SSL

from tunnel.errors import LaneError, LaneLost
from tunnel.transport.ktls import Keys, keys_of
from tunnel.transport.openssl import (
    CLOSED,
    HEADER,
    TlsConnection,
    VerificationError,
    WantRead,
    WantWrite,
    count_records,
    explain,
    is_broken,
)
from tunnel.transport.sockets import reason_of
from tunnel.transport.tls import TlsContexts, handshake_fault, identify

TIMEOUT = 10.0
"""Seconds for the whole handshake: half-open connections must not pile up."""

_HUNG_UP = "the peer closed the connection in the TLS handshake"


async def handshake(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[TlsConnection, str]:
    """Shake hands on a non-blocking ``sock``; return the connection, and which of ``expected`` is the peer.

    ``sock`` stays the caller's, to be closed if this does not return. Raises LaneError, or its IdentityError
    when the peer is not one of ``expected`` (see ``tls.identify``).
    """
    tls = TlsConnection(contexts.client if dialing else contexts.server, sock, dialing=dialing)
    await _bounded(_run(tls, sock), contexts, dialing=dialing)
    return tls, identify(tls, expected)


async def handshake_for_kernel(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[Keys, str]:
    """Do what ``handshake`` does, for a kernel to go on with; ``contexts`` must have been loaded for that."""
    tls = TlsConnection(contexts.client if dialing else contexts.server, None, dialing=dialing)
    records = _ByRecords(tls, sock)
    await _bounded(records.run(), contexts, dialing=dialing)
    # What the accepting side says last are session tickets, already under the keys of the connection.
    sent = 0 if dialing else records.last_sent
    return keys_of(tls.cipher, tls.secrets, dialing=dialing, sent=sent, received=0), identify(tls, expected)


async def _bounded(running: Awaitable[None], contexts: TlsContexts, *, dialing: bool) -> None:
    """Await a handshake for a bounded time, and put into words why it failed."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await running
    except TimeoutError:
        raise LaneError(f"the TLS handshake took more than {TIMEOUT:.0f} seconds") from None
    except VerificationError as error:
        raise handshake_fault(error, contexts.files, dialing=dialing) from error
    except SSL.Error as error:
        raise _explained(error, contexts, dialing=dialing) from error


async def _run(tls: TlsConnection, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            tls.handshake()
        except WantRead:
            await _ready(sock, loop.add_reader, loop.remove_reader)
        except WantWrite:
            await _ready(sock, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(sock: socket.socket, watch: Callable[..., object], unwatch: Callable[..., object]) -> None:
    """Return when the loop says that the socket is."""
    ready = asyncio.Event()
    watch(sock, ready.set)
    try:
        await ready.wait()
    finally:
        unwatch(sock)


class _ByRecords:
    """Carries a handshake between OpenSSL, which works in memory, and a socket."""

    def __init__(self, tls: TlsConnection, sock: socket.socket) -> None:
        self.last_sent = 0  # records that left last, once the handshake is over
        self._tls = tls
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._header = b""
        self._missing = 0  # bytes of the record's body

    async def run(self) -> None:
        """Shake hands. Raises SSL.Error or VerificationError, and LaneLost for a connection that broke."""
        try:
            while not await self._step():
                await self._read()
        except OSError as error:
            raise LaneLost(f"the connection broke in the TLS handshake: {reason_of(error)}") from error

    async def _step(self) -> bool:
        """Let OpenSSL take what came, and send what it says to that; whether that was all."""
        try:
            self._tls.handshake()
        except WantRead:
            await self._send()
            return False
        except (SSL.Error, VerificationError):
            with suppress(OSError):
                await self._send()  # the alert
            raise
        self.last_sent = await self._send()
        return True

    async def _send(self) -> int:
        """Send what OpenSSL has to say; how many records it was."""
        if flight := self._tls.flight():
            await self._loop.sock_sendall(self._sock, flight)
        return count_records(flight)

    async def _read(self) -> None:
        """Read no further than the end of a record; OpenSSL may know what to think of it before."""
        wanted = self._missing or HEADER - len(self._header)
        data = await self._loop.sock_recv(self._sock, wanted)
        if not data:
            raise LaneLost(_HUNG_UP)
        if self._missing:
            self._missing -= len(data)
        else:
            self._header += data
            if len(self._header) == HEADER:
                self._missing, self._header = int.from_bytes(self._header[3:]), b""
        self._tls.feed(data)


def _explained(error: SSL.Error, contexts: TlsContexts, *, dialing: bool) -> LaneError:
    reason = explain(error)
    if reason == CLOSED:
        return LaneLost(_HUNG_UP)
    if is_broken(error):
        return LaneLost(f"the connection broke in the TLS handshake: {reason}")
    return handshake_fault(error, contexts.files, dialing=dialing)

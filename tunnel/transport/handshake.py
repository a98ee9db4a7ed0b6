"""From a connected socket to a TLS connection with a peer whose name is proven.

OpenSSL reads record by record: nothing behind the handshake is taken out of the socket. How much an
unauthenticated peer may make us read is bounded by OpenSSL: 128 KiB for a hello, 100 KiB for certificates.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection

from OpenSSL import SSL

from tunnel.errors import LaneError, LaneLost
from tunnel.transport.openssl import (
    CLOSED,
    TlsConnection,
    VerificationError,
    WantRead,
    WantWrite,
    explain,
    is_broken,
)
from tunnel.transport.tls import TlsContexts, handshake_fault, identify

TIMEOUT = 10.0
"""Seconds for the whole handshake: half-open connections must not pile up."""


async def handshake(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[TlsConnection, str]:
    """Shake hands on a non-blocking ``sock``; return the connection, and which of ``expected`` is the peer.

    ``sock`` stays the caller's, to be closed if this does not return. Raises LaneError, or its IdentityError
    when the peer is not one of ``expected`` (see ``tls.identify``).
    """
    tls = TlsConnection(contexts.client if dialing else contexts.server, sock, dialing=dialing)
    try:
        async with asyncio.timeout(TIMEOUT):
            await _run(tls, sock)
    except TimeoutError:
        raise LaneError(f"the TLS handshake took more than {TIMEOUT:.0f} seconds") from None
    except VerificationError as error:
        raise handshake_fault(error, contexts.files, dialing=dialing) from error
    except SSL.Error as error:
        raise _explained(error, contexts, dialing=dialing) from error
    return tls, identify(tls, expected)


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


def _explained(error: SSL.Error, contexts: TlsContexts, *, dialing: bool) -> LaneError:
    reason = explain(error)
    if reason == CLOSED:
        return LaneLost("the peer closed the connection in the TLS handshake")
    if is_broken(error):
        return LaneLost(f"the connection broke in the TLS handshake: {reason}")
    return handshake_fault(error, contexts.files, dialing=dialing)

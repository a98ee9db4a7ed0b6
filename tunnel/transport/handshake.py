"""From a connected socket to a TLS connection with a peer whose name is proven.

OpenSSL reads record by record, and with no session tickets nothing follows the handshake: so nothing behind
it is taken out of the socket, and a lane may hand the connection to the kernel right afterwards. How much an
unauthenticated peer may make us read is bounded by OpenSSL: 128 KiB for a hello, 100 KiB for certificates.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection

from tunnel.errors import LaneError, LaneLost
from tunnel.transport.tls import TlsContexts, handshake_fault, identify

TIMEOUT = 10.0
"""Seconds for the whole handshake: half-open connections must not pile up."""


async def handshake(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[ssl.SSLSocket, str]:
    """Shake hands on a non-blocking ``sock``; return the connection, and which of ``expected`` is the peer.

    ``sock`` is not the caller's any more: it is closed if this does not return. Raises LaneError, or its
    IdentityError when the peer is not one of ``expected`` (see ``tls.identify``).
    """
    context = contexts.client if dialing else contexts.server
    tls: ssl.SSLSocket | None = None
    try:
        tls = context.wrap_socket(
            sock, server_side=not dialing, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        async with asyncio.timeout(TIMEOUT):
            await _run(tls)
        return tls, identify(tls, expected)
    except BaseException as error:
        (tls or sock).close()
        if (fault := _explain(error, contexts, dialing=dialing)) is not None:
            raise fault from error
        raise


async def _run(tls: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(tls, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(tls, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(tls: ssl.SSLSocket, watch: Callable[..., object], unwatch: Callable[..., object]) -> None:
    """Return when the loop says that the socket is."""
    ready = asyncio.Event()
    watch(tls, ready.set)
    try:
        await ready.wait()
    finally:
        unwatch(tls)


def _explain(error: BaseException, contexts: TlsContexts, *, dialing: bool) -> LaneError | None:
    """Put what ended a handshake into words; None for what is not about the connection."""
    match error:
        case TimeoutError() if error.errno is None:  # ours, not the network's ETIMEDOUT
            return LaneError(f"the TLS handshake took more than {TIMEOUT:.0f} seconds")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return LaneLost("the peer closed the connection in the TLS handshake")
        case ssl.SSLError():
            return handshake_fault(error, contexts.files, dialing=dialing)
        case OSError():
            return LaneLost(f"the connection broke in the TLS handshake: {error.strerror or error}")
    return None

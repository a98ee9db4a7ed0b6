"""The TLS handshake of a lane, over a non-blocking socket and memory BIOs.

Records are read one by one, so that nothing behind the handshake is taken out of the socket: a lane may
hand it to the kernel right afterwards.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass

from tunnel.errors import LaneError, LaneLost
from tunnel.transport.tls import TlsContexts, handshake_fault

TIMEOUT = 10.0
"""Seconds for the whole handshake: half-open connections must not pile up."""

MAX_BYTES = 128 * 1024
"""What an unauthenticated peer may make us read: certificate chains are a few KiB."""

_RECORD_HEADER = 5  # type, version (two bytes), length (two bytes): RFC 8446 section 5.1
_MAJOR_VERSION = 3  # of SSL 3.0 and every TLS
_CONTENT_TYPES = range(20, 24)  # change_cipher_spec, alert, handshake, application_data
_LEGACY_MAJOR = 3
_MAX_RECORD = (1 << 14) + 256  # RFC 8446 section 5.2


@dataclass(slots=True)
class TlsEnd:
    """One end of a TLS connection whose bytes pass through memory BIOs."""

    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


async def handshake(sock: socket.socket, contexts: TlsContexts, *, dialing: bool) -> TlsEnd:
    """Shake hands on a connected socket. Raises LaneError or IdentityError; the socket stays open."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = contexts.client if dialing else contexts.server
    end = TlsEnd(context.wrap_bio(incoming, outgoing, server_side=not dialing), incoming, outgoing)
    try:
        async with asyncio.timeout(TIMEOUT):
            await _run(sock, end)
    except TimeoutError:
        raise LaneError(f"the TLS handshake took more than {TIMEOUT:.0f} seconds") from None
    except ssl.SSLError as error:
        raise handshake_fault(error, contexts.files, dialing=dialing) from error
    except OSError as error:
        raise LaneLost(f"the connection broke in the TLS handshake: {error.strerror or error}") from error
    return end


async def _run(sock: socket.socket, end: TlsEnd) -> None:
    loop = asyncio.get_running_loop()
    budget = MAX_BYTES
    while True:
        try:
            end.tls.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError:
            await _send(loop, sock, end)  # the alert that tells the peer why
            raise
        else:
            done = True
        await _send(loop, sock, end)
        if done:
            return
        record = await _read_record(loop, sock)
        end.incoming.write(record)
        budget -= len(record)
        if budget < 0:
            raise LaneError(f"the peer sent more than {MAX_BYTES} bytes without finishing the TLS handshake")


async def _send(loop: asyncio.AbstractEventLoop, sock: socket.socket, end: TlsEnd) -> None:
    if end.outgoing.pending:
        await loop.sock_sendall(sock, end.outgoing.read())


async def _read_record(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    header = await _read(loop, sock, _RECORD_HEADER)
    length = int.from_bytes(header[3:])
    if header[0] not in _CONTENT_TYPES or header[1] != _LEGACY_MAJOR or length > _MAX_RECORD:
        raise LaneError("the peer does not speak TLS")
    return header + await _read(loop, sock, length)


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = await loop.sock_recv(sock, size - len(data))
        if not chunk:
            raise LaneLost("the peer closed the connection in the TLS handshake")
        data += chunk
    return data

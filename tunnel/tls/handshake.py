"""From a connected socket to the keys of a TLS connection with a peer whose name is proven.

Nothing behind the handshake is taken out of the socket: it is read record by record. Lanes of both kinds go
on from there, and from the number of records that were made under their keys. How much an unauthenticated
peer may make us read is bounded in bytes and records.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from contextlib import suppress

from OpenSSL import SSL

from tunnel.errors import IdentityError, LaneError, LaneLost, LaneStalled
from tunnel.net.iterations import own_iteration
from tunnel.net.sockets import has_gap, reason_of, stuck_for
from tunnel.records.key_schedule import Keys, keys_of
from tunnel.records.record_sealer import RecordSealer
from tunnel.records.tls_messages import (
    ACCESS_DENIED,
    ALERT,
    BAD_CERTIFICATE,
    FATAL,
    HEADER,
    NO_APPLICATION_PROTOCOL,
    count_records,
)
from tunnel.tls.contexts import ALPN, TlsContexts, handshake_fault, identify
from tunnel.tls.openssl import (
    CLOSED,
    CertificateRejectedError,
    NoProtocolError,
    TlsConnection,
    WantRead,
    explain,
)
from tunnel.tls.verified_chains import VerifiedChains
from tunnel.units import KIB

TIMEOUT = 10.0
"""Seconds for the whole handshake: half-open connections must not pile up."""

MOST_RECORDS = 32
"""TLS records that a peer may take for its part: ours needs six, and two more for the longest chain. Each
of them costs a turn of the loop, and may be a single byte."""

MOST_BYTES = 32 * KIB
"""Bytes of a peer's part: a certificate has one or two KiB, and each in a stranger's chain costs 50 µs."""

_MTU = "is the MTU on the way smaller than on the hosts, and ICMP filtered (sysctl net.ipv4.tcp_mtu_probing)?"
_HUNG_UP = "the peer closed the connection in the TLS handshake"


async def handshake(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[Keys, VerifiedChains]:
    """Shake hands on a non-blocking ``sock``; return what to go on with, and who of ``expected`` is the peer.

    ``sock`` stays the caller's, to be closed if this does not return. Raises LaneError, or its IdentityError
    when the peer is not one of ``expected`` (see ``tls.identify``). For kernel lanes ``contexts`` must have
    been loaded for them.
    """
    records, proof = await _shake_hands(sock, contexts, expected, dialing=dialing)
    return records.keys(), proof


async def _shake_hands(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[_ByRecords, VerifiedChains]:
    """Shake hands for a bounded time; put into words why that failed."""
    records = _ByRecords(
        TlsConnection(contexts.client if dialing else contexts.server, dialing=dialing),
        sock,
        dialing=dialing,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            await records.run()
    except TimeoutError:
        raise _stalled(sock, heard=records.heard) from None
    except (CertificateRejectedError, NoProtocolError) as error:
        raise handshake_fault(error, contexts.files, dialing=dialing) from error
    except SSL.Error as error:
        raise _explained(error, contexts, dialing=dialing) from error
    try:
        peer = identify(records.tls, expected)
    except IdentityError:
        records.refuse()
        raise
    ours, theirs = contexts.own_chain(dialing=dialing), records.tls.verified_chain
    return records, VerifiedChains(peer, contexts.trust, theirs, ours, dialing)


def _stalled(sock: socket.socket, *, heard: bool) -> LaneStalled:
    late = f"the TLS handshake took more than {TIMEOUT:.0f} seconds: "
    if heard and stuck_for(sock):
        ours = "small packets get through, and what this host sends in full ones does not: "
        return LaneStalled(late + ours + _MTU, TIMEOUT, proven=True)
    if has_gap(sock):
        theirs = "the peer's small packets get through, and its full ones do not: "
        return LaneStalled(late + theirs + _MTU, TIMEOUT, proven=True)
    return LaneStalled(late + "the peer does not answer, or its full packets get lost: " + _MTU, TIMEOUT)


class _ByRecords:
    """Carries a handshake between OpenSSL, which works in memory, and a socket."""

    def __init__(self, tls: TlsConnection, sock: socket.socket, *, dialing: bool) -> None:
        self.tls = tls
        self._dialing = dialing
        self.last_sent = 0  # records that left last, once the handshake is over
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._header = b""
        self._missing = 0  # bytes of the record's body
        self._whole = False  # a record is complete: OpenSSL has something to do
        self._records = self._bytes = 0  # that came

    async def run(self) -> None:
        """Shake hands. Raises SSL.Error or VerificationError, and LaneLost for a connection that broke."""
        try:
            while not await self._step():
                await self._read()
        except OSError as error:
            raise LaneLost(f"the connection broke in the TLS handshake: {reason_of(error)}") from error

    async def _step(self) -> bool:
        """Let OpenSSL take what came, and send what it says to that; whether that was all."""
        if self._whole and not self._dialing:
            await own_iteration()  # it takes a good part of a millisecond, and any number may come at once
        try:
            self.tls.handshake()
        except WantRead:
            await self._send()
            return False
        except (SSL.Error, CertificateRejectedError, NoProtocolError):
            with suppress(OSError):
                await self._send()  # the alert
            raise
        self.last_sent = await self._send()
        return True

    @property
    def heard(self) -> bool:
        """Whether the peer has said anything."""
        return bool(self._records)

    def keys(self) -> Keys:
        """What the connection goes on with."""
        # What the accepting side says last are session tickets, already under the keys of the connection.
        sent = 0 if self._dialing else self.last_sent
        return keys_of(self.tls.cipher, self.tls.secrets, dialing=self._dialing, sent=sent, received=0)

    def refuse(self) -> None:
        """Tell the peer why, by an alert (RFC 8446 section 6.2): as OpenSSL sees it, all is well."""
        if self.tls.protocol != ALPN:
            alert = NO_APPLICATION_PROTOCOL
        else:
            alert = BAD_CERTIFICATE if self._dialing else ACCESS_DENIED
        keys = self.keys()
        record = RecordSealer(keys.cipher, keys.send).record(ALERT, bytes([FATAL, alert]))
        with suppress(OSError):
            self._sock.send(record)

    async def _send(self) -> int:
        """Send what OpenSSL has to say; how many records it was."""
        if flight := self.tls.flight():
            await self._loop.sock_sendall(self._sock, flight)
        return count_records(flight)

    async def _read(self) -> None:
        """Read no further than the end of a record; OpenSSL may know what to think of it before."""
        wanted = self._missing or HEADER - len(self._header)
        data = await self._loop.sock_recv(self._sock, wanted)
        if not data:
            raise LaneLost(_HUNG_UP)
        self._whole = False
        if self._missing:
            self._missing -= len(data)
            self._whole = not self._missing
        else:
            self._header += data
            if len(self._header) == HEADER:
                self._records += 1
                if self._records > MOST_RECORDS:
                    raise LaneError(f"the peer needs more than {MOST_RECORDS} records for the TLS handshake")
                self._missing, self._header = int.from_bytes(self._header[3:]), b""
                self._bytes += self._missing
                if self._bytes > MOST_BYTES and self._records > 1:  # of the first one OpenSSL says what it is
                    raise LaneError(f"the peer says more than {MOST_BYTES // KIB} KiB in the TLS handshake")
        self.tls.feed(data)


def _explained(error: SSL.Error, contexts: TlsContexts, *, dialing: bool) -> LaneError:
    if explain(error) == CLOSED:
        return LaneLost(_HUNG_UP)
    return handshake_fault(error, contexts.files, dialing=dialing)

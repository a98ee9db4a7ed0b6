"""The TLS handshake of a lane on a connected socket: returns keys and the verified chains.

Nothing after the handshake is read from the socket: it is read record by record. Lanes of both kinds continue
from there, with the number of records already sent under their keys. Input from an unauthenticated peer is
bounded in bytes and records.
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
"""Maximum TLS records of a peer's handshake: ours has six, and two more with the longest chain. Each costs a
loop iteration and may be a single byte."""

MOST_BYTES = 32 * KIB
"""Maximum bytes of a peer's handshake: a certificate has 1 or 2 KiB; parsing each of a chain costs 50 µs."""

_MTU = "is the path MTU smaller than that of the hosts, and ICMP filtered (sysctl net.ipv4.tcp_mtu_probing)?"
_HUNG_UP = "the peer closed the connection during the TLS handshake"


async def handshake(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[Keys, VerifiedChains]:
    """Do the TLS handshake on a non-blocking ``sock``; return the keys, and the chains with the peer's name.

    The caller keeps ``sock`` and must close it if this raises. Raises LaneError, or its IdentityError when
    the peer is not one of ``expected`` (see ``contexts.identify``). For kernel lanes ``contexts`` must have
    been loaded for them.
    """
    records, proof = await _shake_hands(sock, contexts, expected, dialing=dialing)
    return records.keys(), proof


async def _shake_hands(
    sock: socket.socket, contexts: TlsContexts, expected: Collection[str], *, dialing: bool
) -> tuple[_ByRecords, VerifiedChains]:
    """Do the handshake within ``TIMEOUT``; convert errors."""
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
    late = f"the TLS handshake timed out after {TIMEOUT:.0f} seconds: "
    if heard and stuck_for(sock):
        ours = "small packets arrive, but full-size packets of this host do not: "
        return LaneStalled(late + ours + _MTU, TIMEOUT, proven=True)
    if has_gap(sock):
        theirs = "small packets arrive, but full-size packets of the peer do not: "
        return LaneStalled(late + theirs + _MTU, TIMEOUT, proven=True)
    return LaneStalled(late + "the peer does not reply, or its full-size packets are lost: " + _MTU, TIMEOUT)


class _ByRecords:
    """Moves a handshake between OpenSSL, which works in memory, and a socket."""

    def __init__(self, tls: TlsConnection, sock: socket.socket, *, dialing: bool) -> None:
        self.tls = tls
        self._dialing = dialing
        self.last_sent = 0  # records of the last flight, after the handshake
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._header = b""
        self._missing = 0  # bytes of the record's body not yet received
        self._whole = False  # a record is complete: OpenSSL can process it
        self._records = self._bytes = 0  # received

    async def run(self) -> None:
        """Do the handshake. Raises SSL.Error, CertificateRejectedError, NoProtocolError or LaneLost."""
        try:
            while not await self._step():
                await self._read()
        except OSError as error:
            raise LaneLost(f"connection lost during the TLS handshake: {reason_of(error)}") from error

    async def _step(self) -> bool:
        """Let OpenSSL process the input, and send its output; return whether the handshake is complete."""
        if self._whole and not self._dialing:
            await own_iteration()  # it takes most of a millisecond, and there may be many connections
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
        """Whether a record was received from the peer."""
        return bool(self._records)

    def keys(self) -> Keys:
        """The keys of the connection after the handshake."""
        # The last flight of the accepting side are session tickets, already protected with these keys.
        sent = 0 if self._dialing else self.last_sent
        return keys_of(self.tls.cipher, self.tls.secrets, dialing=self._dialing, sent=sent, received=0)

    def refuse(self) -> None:
        """Send an alert (RFC 8446 section 6.2): for OpenSSL the handshake has succeeded, so it sends none."""
        if self.tls.protocol != ALPN:
            alert = NO_APPLICATION_PROTOCOL
        else:
            alert = BAD_CERTIFICATE if self._dialing else ACCESS_DENIED
        keys = self.keys()
        record = RecordSealer(keys.cipher, keys.send).record(ALERT, bytes([FATAL, alert]))
        with suppress(OSError):
            self._sock.send(record)

    async def _send(self) -> int:
        """Send OpenSSL's output; return the number of records."""
        if flight := self.tls.flight():
            await self._loop.sock_sendall(self._sock, flight)
        return count_records(flight)

    async def _read(self) -> None:
        """Read up to the end of a record; OpenSSL may reject it earlier."""
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
                    raise LaneError(f"the peer sent more than {MOST_RECORDS} records in the TLS handshake")
                self._missing, self._header = int.from_bytes(self._header[3:]), b""
                self._bytes += self._missing
                if self._bytes > MOST_BYTES and self._records > 1:  # the first one OpenSSL can explain
                    raise LaneError(f"the peer sent more than {MOST_BYTES // KIB} KiB in the TLS handshake")
        self.tls.feed(data)


def _explained(error: SSL.Error, contexts: TlsContexts, *, dialing: bool) -> LaneError:
    if explain(error) == CLOSED:
        return LaneLost(_HUNG_UP)
    return handshake_fault(error, contexts.files, dialing=dialing)

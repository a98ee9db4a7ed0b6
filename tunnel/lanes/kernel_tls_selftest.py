"""Whether the kernel of this host can do what a kernel lane needs: tried, not guessed from its version.

For each cipher suite two ends shake hands in memory, as lanes do, and their keys go to the two sockets of a
loopback connection. Then a header and spliced payload have to cross it in both directions, whole and
unchanged, and a record that is none of data. It takes some milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket

from OpenSSL import SSL

from tunnel.errors import LaneError
from tunnel.lanes import kernel_tls
from tunnel.net.pipes import Pipe
from tunnel.net.sockets import loopback_pair
from tunnel.records.key_schedule import SUITES, Keys, keys_of
from tunnel.records.tls_messages import ALERT, CLOSE_NOTIFY, count_records
from tunnel.tls.contexts import client_context, server_context
from tunnel.tls.lane_kinds import KernelTlsSupport
from tunnel.tls.openssl import TlsConnection, WantRead
from tunnel.tls.tls_files import TlsFiles
from tunnel.wire.codes import HEADER_SIZE

PATIENCE = 5.0
"""Seconds that bytes may take to cross the loopback interface."""

_SIZES = (1, 16_384, 100_001)
_FLIGHTS = 4  # TLS 1.3 has three


def run_selftest(files: TlsFiles) -> KernelTlsSupport:
    """Try every suite that a lane may use, with this host's certificates."""
    suites, faults = [], []
    for suite in SUITES:
        try:
            _try(suite, files)
        except kernel_tls.NoModuleError:
            return KernelTlsSupport((), kernel_tls.NO_MODULE)
        except (LaneError, OSError, SSL.Error) as error:
            faults.append(str(error))
        else:
            suites.append(suite)
    if not suites:
        return KernelTlsSupport((), f"the self-test failed: {faults[0]}")
    return KernelTlsSupport(tuple(suites), f"the self-test passed with {', '.join(suites)}")


def _try(suite: str, files: TlsFiles) -> None:
    """Raise LaneError or OSError if ``suite`` does not work."""
    ours, theirs = _shake_hands(server_context(files, (suite,)), client_context(files, (suite,)))
    one, other = loopback_pair(PATIENCE)
    with one, other:
        kernel_tls.enable(one, theirs)
        kernel_tls.enable(other, ours)
        for sock in (one, other):
            sock.setblocking(False)
        for size in _SIZES:
            _cross(one, other, os.urandom(size))
            _cross(other, one, os.urandom(size))
        kernel_tls.send_record(one, ALERT, CLOSE_NOTIFY)
        if _take_control(other) != (ALERT, CLOSE_NOTIFY):
            raise LaneError("the kernel does not tell an alert from data")


def _shake_hands(server: SSL.Context, client: SSL.Context) -> tuple[Keys, Keys]:
    """The keys of the accepting and of the dialing end of a new connection."""
    acceptor = TlsConnection(server, dialing=False)
    dialer = TlsConnection(client, dialing=True)
    tickets = 0
    for _ in range(_FLIGHTS):
        for end, other in ((dialer, acceptor), (acceptor, dialer)):
            done = _advance(end)
            flight = end.flight()
            if end is acceptor and done and flight:
                tickets = count_records(flight)
            elif flight:
                other.feed(flight)
    ours = keys_of(acceptor.cipher, acceptor.secrets, dialing=False, sent=tickets, received=0)
    theirs = keys_of(dialer.cipher, dialer.secrets, dialing=True, sent=0, received=tickets)
    return ours, theirs


def _advance(end: TlsConnection) -> bool:
    try:
        end.handshake()
    except WantRead:
        return False
    return True


def _cross(one: socket.socket, other: socket.socket, payload: bytes) -> None:
    """Let a header and ``payload`` go from ``one`` to ``other``."""
    header = os.urandom(HEADER_SIZE)
    outgoing, kept, incoming = Pipe(), Pipe(), Pipe()
    os.write(outgoing.sink, payload)
    if outgoing.duplicate(kept, len(payload)) != len(payload):
        raise LaneError("a pipe does not hold a copy of what another holds")
    one.send(header, socket.MSG_MORE)
    sent = 0
    while sent < len(payload):
        _wait(one, select.POLLOUT)
        sent += outgoing.empty(one.fileno(), len(payload) - sent)
    _wait(other, select.POLLIN)
    if other.recv(HEADER_SIZE) != header:
        raise LaneError("the kernel does not decrypt what it encrypted")
    received = hashlib.sha256()
    taken = 0
    while taken < len(payload):
        _wait(other, select.POLLIN)
        if not (count := incoming.fill(other.fileno(), len(payload) - taken)):
            raise LaneError("the connection ended early")
        received.update(incoming.read(count))
        taken += count
    if not received.digest() == hashlib.sha256(payload).digest() == hashlib.sha256(kept.read(sent)).digest():
        raise LaneError("spliced bytes are not what they were")


def _take_control(sock: socket.socket) -> tuple[int, bytes]:
    """Take a record which splice must have refused."""
    _wait(sock, select.POLLIN)
    try:
        Pipe().fill(sock.fileno(), 1)
    except OSError as error:
        if kernel_tls.is_control(error):
            return kernel_tls.receive_record(sock)
        raise
    raise LaneError("the kernel takes an alert for data")


def _wait(sock: socket.socket, event: int) -> None:
    poll = select.poll()
    poll.register(sock, event)
    if not poll.poll(PATIENCE * 1000):
        raise LaneError(f"nothing moved for {PATIENCE:g} seconds")

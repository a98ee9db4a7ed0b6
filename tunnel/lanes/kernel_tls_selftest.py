"""Self-test of kernel TLS: whether this kernel supports what a kernel lane needs, whatever its version.

For each cipher suite two ends do a handshake in memory, and their keys are set on the two sockets of a
loopback connection. Then a header and spliced payload have to cross it unchanged in both directions, and a
non-data record. It takes some milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket

from OpenSSL import SSL

from tunnel.errors import LaneError
from tunnel.lanes import kernel_tls
from tunnel.lanes.kernel_payload import Pipe
from tunnel.net.sockets import loopback_pair
from tunnel.records.key_schedule import SUITES, Keys, keys_of
from tunnel.records.tls_messages import ALERT, CLOSE_NOTIFY, count_records
from tunnel.tls.contexts import client_context, server_context
from tunnel.tls.lane_kinds import KernelTlsSupport
from tunnel.tls.openssl import TlsConnection, WantRead
from tunnel.tls.tls_files import TlsFiles
from tunnel.wire.codes import HEADER_SIZE

PATIENCE = 5.0
"""Timeout in seconds for bytes to cross the loopback interface."""

_SIZES = (1, 16_384, 100_001)
_FLIGHTS = 4  # TLS 1.3 has three


def run_selftest(files: TlsFiles) -> KernelTlsSupport:
    """Test every suite that a lane may use, with this host's certificates."""
    suites, faults = [], []
    for suite in SUITES:
        try:
            _try(suite, files)
        except kernel_tls.NoModuleError:
            return KernelTlsSupport((), kernel_tls.NO_MODULE, no_module=True)
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
            raise LaneError("the kernel did not deliver an alert unchanged")


def _shake_hands(server: SSL.Context, client: SSL.Context) -> tuple[Keys, Keys]:
    """Do a handshake in memory; return the keys of the accepting and of the dialing end."""
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
    """Send a header and ``payload`` from ``one`` to ``other``, and compare them."""
    header = os.urandom(HEADER_SIZE)
    outgoing, kept, incoming = Pipe(), Pipe(), Pipe()
    os.write(outgoing.sink, payload)
    if outgoing.duplicate(kept, len(payload)) != len(payload):
        raise LaneError("tee(2) did not duplicate the whole pipe")
    one.send(header, socket.MSG_MORE)
    sent = 0
    while sent < len(payload):
        _wait(one, select.POLLOUT)
        sent += outgoing.empty(one.fileno(), len(payload) - sent)
    _wait(other, select.POLLIN)
    if other.recv(HEADER_SIZE) != header:
        raise LaneError("the decrypted header differs from the one sent")
    received = hashlib.sha256()
    taken = 0
    while taken < len(payload):
        _wait(other, select.POLLIN)
        if not (count := incoming.fill(other.fileno(), len(payload) - taken)):
            raise LaneError("the connection was closed early")
        received.update(incoming.read(count))
        taken += count
    if not received.digest() == hashlib.sha256(payload).digest() == hashlib.sha256(kept.read(sent)).digest():
        raise LaneError("spliced bytes differ from those sent")


def _take_control(sock: socket.socket) -> tuple[int, bytes]:
    """Read a record that splice has to refuse."""
    _wait(sock, select.POLLIN)
    try:
        Pipe().fill(sock.fileno(), 1)
    except OSError as error:
        if kernel_tls.is_control(error):
            return kernel_tls.receive_record(sock)
        raise
    raise LaneError("the kernel delivers an alert as data")


def _wait(sock: socket.socket, event: int) -> None:
    poll = select.poll()
    poll.register(sock, event)
    if not poll.poll(PATIENCE * 1000):
        raise LaneError(f"timed out after {PATIENCE:g} seconds waiting for a loopback socket")

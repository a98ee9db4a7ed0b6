"""One TLS connection: what it reports, and that what we use of pyOpenSSL's insides is still there."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tunnel.transport.openssl import (
    CLOSED,
    RECORD,
    Buffer,
    TlsConnection,
    VerificationError,
    WantRead,
    WantWrite,
    count_records,
    explain,
    is_alert,
    is_broken,
)
from tunnel.transport.tls import client_context

Ends = tuple[TlsConnection, TlsConnection, socket.socket, socket.socket]


@pytest.fixture
def ends(hosts: Hosts) -> Iterator[Ends]:
    """A dialing and an accepting end that shook hands over a pair of sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        dialer = TlsConnection(hosts.a.client, ours, dialing=True)
        acceptor = TlsConnection(hosts.b.server, theirs, dialing=False)
        for end in (dialer, acceptor, dialer, acceptor):
            with suppress(WantRead):
                end.handshake()
        yield dialer, acceptor, ours, theirs


def test_everything_that_arrived_is_read_at_once(ends: Ends) -> None:
    dialer, acceptor, _, _ = ends
    for size in (1, RECORD, 5):
        assert dialer.send(bytes([size % 256]) * size) is None
    buffer = Buffer(4 * RECORD)
    count, reason = acceptor.receive(buffer, 3 * RECORD)
    assert bytes(buffer.view[:count]) == b"\1" + bytes(RECORD) + b"\5" * 5
    assert isinstance(reason, WantRead)


def test_reading_stops_when_the_buffer_has_enough(ends: Ends) -> None:
    dialer, acceptor, _, _ = ends
    dialer.send(bytes(3 * RECORD))
    buffer = Buffer(2 * RECORD)
    assert acceptor.receive(buffer, RECORD) == (RECORD, None)
    assert acceptor.receive(buffer, RECORD + 1) == (2 * RECORD, None)


def test_a_full_socket_takes_the_same_bytes_again_later(ends: Ends) -> None:
    dialer, acceptor, _, _ = ends
    payload = bytes(range(256)) * 8192
    buffer, got, reason = Buffer(4 << 20), b"", dialer.send(payload)
    assert isinstance(reason, WantWrite)
    while reason is not None:
        count, _ = acceptor.receive(buffer, 2 << 20)
        got += buffer.view[:count]
        reason = dialer.send(bytes(payload))  # the same bytes, though not in the same place
        assert reason is None or isinstance(reason, WantWrite)
    while len(got) < len(payload):
        count, _ = acceptor.receive(buffer, 2 << 20)
        got += buffer.view[:count]
    assert got == payload


def test_an_end_is_told_from_a_cut_and_a_break(ends: Ends) -> None:
    dialer, acceptor, _, theirs = ends
    acceptor.say_goodbye()
    _, reason = dialer.receive(Buffer(2 * RECORD), RECORD)
    assert isinstance(reason, SSL.ZeroReturnError)
    assert explain(reason) == CLOSED
    theirs.close()
    reason = dialer.send(b"x")
    assert reason is not None
    assert is_broken(reason)
    assert explain(reason) == "Broken pipe"


def test_garbage_is_no_end(ends: Ends) -> None:
    dialer, _, _, theirs = ends
    theirs.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    _, reason = dialer.receive(Buffer(2 * RECORD), RECORD)
    assert reason is not None
    assert not is_broken(reason)
    assert "bad record mac" in explain(reason)


def test_what_a_connection_settled(ends: Ends) -> None:
    dialer, acceptor, _, _ = ends
    for end in (dialer, acceptor):
        assert (end.version, end.protocol) == ("TLSv1.3", "mtunnel/1")
        assert end.cipher.startswith("TLS_")
        assert end.peer_certificate is not None


def test_faults_have_words() -> None:
    assert str(VerificationError(10)) == "certificate has expired"
    assert explain(SSL.Error([("SSL routines", "", "TLSV1 ALERT UNKNOWN CA")])) == "tlsv1 alert unknown ca"
    assert is_alert("tlsv1 alert unknown ca")
    assert not is_alert("wrong version number")
    assert explain(SSL.SysCallError(-1, "Unexpected EOF")) == CLOSED
    assert explain(SSL.SysCallError(104, "ECONNRESET")) == "Connection reset by peer"
    assert explain(SSL.Error([("system library", "", "")])) == "system library"
    assert explain(SSL.Error()) == explain(SSL.Error([])) == "unknown reason"


def test_the_failure_of_one_connection_is_not_taken_for_anothers(ends: Ends) -> None:
    """OpenSSL keeps errors by thread, and OpenSSL 3 looks there first, whichever connection it is about."""
    dialer, _, _, theirs = ends
    theirs.close()
    reason = dialer.send(b"x")
    assert reason is not None
    assert is_broken(reason)
    assert not SSL._lib.ERR_peek_error()  # type: ignore[attr-defined]


def test_reasons_keep_no_buffers_alive(ends: Ends) -> None:
    """They come with every batch, and a buffer caught in a cycle of garbage has crashed the collector."""
    dialer, _, _, _ = ends
    _, reason = dialer.receive(Buffer(2 * RECORD), RECORD)
    assert reason is not None
    assert reason.__traceback__ is None
    gc.collect()


def test_secrets_are_kept_for_kernel_lanes_and_only_there(hosts: Hosts, ends: Ends) -> None:
    dialer, acceptor, *_ = ends
    for name in ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"):
        assert dialer.secrets[name] == acceptor.secrets[name] != b""
    assert dialer.secrets["CLIENT_TRAFFIC_SECRET_0"] != dialer.secrets["SERVER_TRAFFIC_SECRET_0"]
    quiet = TlsConnection(client_context(hosts.a.files), None, dialing=True)
    other = TlsConnection(hosts.b.server, None, dialing=False)
    for end, peer in ((quiet, other), (other, quiet)) * 2:
        with suppress(WantRead):
            end.handshake()
        if flight := end.flight():
            peer.feed(flight)
    assert other.secrets
    assert quiet.secrets == {}


def test_a_flight_is_all_that_is_to_be_said_in_whole_records(hosts: Hosts) -> None:
    dialer = TlsConnection(hosts.a.client, None, dialing=True)
    with suppress(WantRead):
        dialer.handshake()
    hello = dialer.flight()
    assert count_records(hello) == 1
    assert count_records(hello * 3) == 3
    assert dialer.flight() == b""
    assert count_records(b"") == 0

"""One TLS handshake in memory: what it settles, and what it tells."""

from __future__ import annotations

from contextlib import suppress

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tunnel.transport.openssl import (
    CLOSED,
    TlsConnection,
    VerificationError,
    WantRead,
    explain,
    is_alert,
)
from tunnel.transport.tls_messages import count_records

Ends = tuple[TlsConnection, TlsConnection]


@pytest.fixture
def ends(hosts: Hosts) -> Ends:
    """A dialing and an accepting end that shook hands in memory."""
    dialer = TlsConnection(hosts.a.client, dialing=True)
    acceptor = TlsConnection(hosts.b.server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer), (dialer, acceptor)):
        with suppress(WantRead):
            end.handshake()
        other.feed(end.flight())
    with suppress(WantRead):
        acceptor.handshake()
    return dialer, acceptor


def test_what_a_connection_settled(ends: Ends) -> None:
    dialer, acceptor = ends
    for end in (dialer, acceptor):
        assert (end.version, end.protocol) == ("TLSv1.3", "mtunnel/1")
        assert end.cipher.startswith("TLS_")
        assert end.peer_certificate is not None


def test_faults_have_words() -> None:
    assert str(VerificationError(10)) == "certificate has expired"
    assert explain(SSL.Error([("SSL routines", "", "TLSV1 ALERT UNKNOWN CA")])) == "tlsv1 alert unknown ca"
    assert is_alert("tlsv1 alert unknown ca")
    assert not is_alert("wrong version number")
    assert explain(SSL.Error([("system library", "", "")])) == "system library"
    assert explain(SSL.ZeroReturnError()) == CLOSED
    assert explain(SSL.Error()) == explain(SSL.Error([])) == "unknown reason"


def test_both_ends_know_the_same_secrets(ends: Ends) -> None:
    dialer, acceptor = ends
    for name in ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"):
        assert dialer.secrets[name] == acceptor.secrets[name] != b""
    assert dialer.secrets["CLIENT_TRAFFIC_SECRET_0"] != dialer.secrets["SERVER_TRAFFIC_SECRET_0"]


def test_a_flight_is_all_that_is_to_be_said_in_whole_records(hosts: Hosts) -> None:
    dialer = TlsConnection(hosts.a.client, dialing=True)
    with suppress(WantRead):
        dialer.handshake()
    hello = dialer.flight()
    assert count_records(hello) == 1
    assert count_records(hello * 3) == 3
    assert dialer.flight() == b""
    assert count_records(b"") == 0

"""A record made by hand is the one that TLS would have made: RFC 8448, and OpenSSL at the other end."""

from __future__ import annotations

from contextlib import suppress

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tests.support.rfc8448 import CLIENT, CLIENT_CLOSE, SUITE
from tunnel.transport.key_schedule import SUITES, Direction
from tunnel.transport.openssl import Buffer, TlsConnection, WantRead, explain
from tunnel.transport.records import seal
from tunnel.transport.tls import client_context
from tunnel.transport.tls_messages import ACCESS_DENIED, ALERT, CLOSE_NOTIFY, DATA, FATAL, RECORD


def test_the_alert_of_the_rfcs_trace() -> None:
    """RFC 8448 section 3, the last record but one: the client's close_notify, its second record."""
    record = seal(SUITE, Direction(CLIENT, 1), ALERT, CLOSE_NOTIFY)
    assert record == CLIENT_CLOSE


@pytest.mark.parametrize("suite", SUITES)
def test_openssl_reads_them_with_every_suite(hosts: Hosts, suite: str) -> None:
    dialer = TlsConnection(client_context(hosts.a.files, (suite,)), dialing=True)
    acceptor = TlsConnection(hosts.b.server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer)) * 2:
        with suppress(WantRead):
            end.handshake()
        if flight := end.flight():
            other.feed(flight)
    secret = dialer.secrets["CLIENT_TRAFFIC_SECRET_0"]
    cipher = seal(suite, Direction(secret, 0), DATA, b"hello")
    cipher += seal(suite, Direction(secret, 1), ALERT, bytes([FATAL, ACCESS_DENIED]))
    incoming, plain = Buffer(RECORD), Buffer(3 * RECORD)
    incoming.view[: len(cipher)] = cipher
    count, reason = acceptor.decrypt(incoming, len(cipher), plain)
    assert (dialer.cipher, bytes(plain.view[:count])) == (suite, b"hello")
    assert isinstance(reason, SSL.Error)
    assert explain(reason) == "tlsv1 alert access denied"

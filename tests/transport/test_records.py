"""A record made by hand is the one that TLS would have made: RFC 8448, and OpenSSL at the other end."""

from __future__ import annotations

from contextlib import suppress

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tunnel.transport.ktls import ACCESS_DENIED, ALERT, CLOSE_NOTIFY, DATA, FATAL, SUITES, Direction
from tunnel.transport.openssl import RECORD, Buffer, TlsConnection, WantRead, explain
from tunnel.transport.records import seal
from tunnel.transport.tls import client_context

CLIENT = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")


def test_the_alert_of_the_rfcs_trace() -> None:
    """RFC 8448 section 3, the last record but one: the client's close_notify, its second record."""
    record = seal("TLS_AES_128_GCM_SHA256", Direction(CLIENT, 1), ALERT, CLOSE_NOTIFY)
    assert record.hex() == "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"


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

"""A TLS handshake in memory: negotiated values and errors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tests.support.signers import Signer
from tunnel.records.tls_messages import count_records
from tunnel.tls.contexts import load
from tunnel.tls.openssl import (
    CLOSED,
    CertificateRejectedError,
    TlsConnection,
    WantRead,
    explain,
    is_alert,
)

Ends = tuple[TlsConnection, TlsConnection]


@pytest.fixture
def ends(hosts: Hosts) -> Ends:
    """A dialing and an accepting end after a handshake in memory."""
    dialer = TlsConnection(hosts.a.client, dialing=True)
    acceptor = TlsConnection(hosts.b.server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer), (dialer, acceptor)):
        with suppress(WantRead):
            end.handshake()
        other.feed(end.flight())
    with suppress(WantRead):
        acceptor.handshake()
    return dialer, acceptor


def test_negotiated_values(ends: Ends) -> None:
    dialer, acceptor = ends
    for end in (dialer, acceptor):
        assert (end.version, end.protocol) == ("TLSv1.3", "mtunnel/1")
        assert end.cipher.startswith("TLS_")
        assert end.peer_certificate is not None


def test_error_texts() -> None:
    assert str(CertificateRejectedError(10)) == "certificate has expired"
    assert explain(SSL.Error([("SSL routines", "", "TLSV1 ALERT UNKNOWN CA")])) == "tlsv1 alert unknown ca"
    assert is_alert("tlsv1 alert unknown ca")
    assert not is_alert("wrong version number")
    assert explain(SSL.Error([("system library", "", "")])) == "system library"
    assert explain(SSL.ZeroReturnError()) == CLOSED
    assert explain(SSL.Error()) == explain(SSL.Error([])) == "unknown reason"


def test_both_ends_have_the_same_secrets(ends: Ends) -> None:
    dialer, acceptor = ends
    for name in ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"):
        assert dialer.secrets[name] == acceptor.secrets[name] != b""
    assert dialer.secrets["CLIENT_TRAFFIC_SECRET_0"] != dialer.secrets["SERVER_TRAFFIC_SECRET_0"]


def test_a_flight_is_all_pending_output_in_whole_records(hosts: Hosts) -> None:
    dialer = TlsConnection(hosts.a.client, dialing=True)
    with suppress(WantRead):
        dialer.handshake()
    hello = dialer.flight()
    assert count_records(hello) == 1
    assert count_records(hello * 3) == 3
    assert dialer.flight() == b""
    assert count_records(b"") == 0


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let threads switch often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def shake(client: SSL.Context, server: SSL.Context) -> None:
    dialer, acceptor = TlsConnection(client, dialing=True), TlsConnection(server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer)) * 2:
        with suppress(WantRead):
            end.handshake()
        if flight := end.flight():
            other.feed(flight)


def test_an_error_of_one_peer_is_not_raised_for_another_in_another_thread(hosts: Hosts, tmp: Path) -> None:
    stranger = Signer("other")
    bad = load(stranger.host("hostb").files(tmp / "bad", ca=(stranger,), crls=(stranger.crl(),))).server
    over, errors = threading.Event(), set()

    def meet_the_stranger() -> None:
        while not over.is_set():
            try:
                shake(hosts.a.client, bad)
            except Exception as error:  # noqa: BLE001  checked below
                errors.add(type(error))

    with quick_switches():
        other = threading.Thread(target=meet_the_stranger)
        other.start()
        try:
            for _ in range(200):
                shake(hosts.a.client, hosts.b.server)
        finally:
            over.set()
            other.join()
    assert errors == {CertificateRejectedError}

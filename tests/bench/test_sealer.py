"""Records made by hand are those that OpenSSL understands, also behind KeyUpdates."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.support.pki import Pki
from tunnel.bench.sealer import SUITE, Sealer
from tunnel.transport.openssl import Buffer, TlsConnection, WantRead
from tunnel.transport.tls import client_context, load


def test_records_are_understood_before_and_behind_key_updates(tmp: Path) -> None:
    pki = Pki(tmp)
    dialer = TlsConnection(client_context(pki.host("hosta"), (SUITE,)), dialing=True)
    acceptor = TlsConnection(load(pki.host("hostb")).server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer), (dialer, acceptor)):
        with suppress(WantRead):
            end.handshake()
        other.feed(end.flight())
    with suppress(WantRead):
        acceptor.handshake()
    seal = Sealer(dialer)
    incoming, plain = Buffer(1 << 16), Buffer(1 << 17)
    got = b""
    for record in (seal.data(b"one"), seal.update(asking=True), seal.data(b"two"), seal.data(b"three")):
        incoming.view[: len(record)] = record
        count, _ = acceptor.decrypt(incoming, len(record), plain)
        got += plain.view[:count]
    assert got == b"onetwothree"

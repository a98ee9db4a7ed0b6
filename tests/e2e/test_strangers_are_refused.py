"""A client that is not a verified peer is refused: no target is dialled, and the log has the reason."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from tests.support.daemons import TwoHosts
from tests.support.pki import SERVER_ONLY, Pki, expired, not_yet_valid
from tests.support.streams import Target, connect, exchange
from tunnel.bench.measure.raw_peer import HELLO, HungUp, RawPeer, client_context
from tunnel.wire.frames import Open

Stranger = Callable[[TwoHosts], ssl.SSLContext]


def wrong_authority(hosts: TwoHosts) -> ssl.SSLContext:
    elsewhere = hosts.directory / "elsewhere"
    elsewhere.mkdir()
    return client_context(Pki(elsewhere).host("hosta"))


def out_of_date(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.pki.host("hosta-old", dns=["hosta"], validity=expired()))


def too_early(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.pki.host("hosta-new", dns=["hosta"], validity=not_yet_valid()))


def servers_only(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.pki.host("hosta-server", dns=["hosta"], usages=SERVER_ONLY))


def unconfigured(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.pki.host("hostz"))


def itself(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.b.files)


def nameless(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(None)


def old_tls(hosts: TwoHosts) -> ssl.SSLContext:
    context = client_context(hosts.a.files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def no_alpn(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.a.files, alpn=None)


def other_alpn(hosts: TwoHosts) -> ssl.SSLContext:
    return client_context(hosts.a.files, alpn="h2")


STRANGERS: dict[Stranger, str] = {
    wrong_authority: "the peer's certificate is not signed by an authority in ",
    out_of_date: "the peer's certificate has expired",
    too_early: "the peer's certificate is not valid yet",
    servers_only: "the peer's certificate is not fit for dialing",
    unconfigured: "the peer's certificate names hostz; expected hosta",
    itself: "the peer's certificate names hostb; expected hosta",
    nameless: "peer did not return a certificate",
    old_tls: "unsupported protocol",
    no_alpn: "the peer does not support mtunnel/1",
    other_alpn: "the peer does not support mtunnel/1",
}


def is_answered(address: str, context: ssl.SSLContext, target: str) -> bool:
    """Whether a peer that opens a stream immediately gets any reply."""
    try:
        with RawPeer(address, context) as peer:
            peer.send(HELLO, Open(1, 0, target))
            peer.receive()
    except (OSError, HungUp):
        return False
    return True


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
def test_stranger_is_refused(hosts: TwoHosts, target: Target, stranger: Stranger) -> None:
    hosts.b.egress["hosta"] += [target.address]
    hosts.b.start()
    hosts.b.wait_serving()
    # It may send immediately, before it is verified: in TLS 1.3 the client completes its handshake first.
    assert not is_answered(hosts.b.address, stranger(hosts), target.address)
    hosts.b.wait_log(f'event="connection rejected".*{STRANGERS[stranger]}')
    assert hosts.b.status()["rejected"] == 1
    assert hosts.b.link(hosts.a)["state"] == "down"
    assert not target.called


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.0\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff"])
def test_noise_is_refused(hosts: TwoHosts, noise: bytes) -> None:
    hosts.b.start()
    hosts.b.wait_serving()
    with connect(f"tcp:{hosts.b.address}") as sock:
        sock.sendall(noise)
        hosts.b.wait_log('event="connection rejected"')


def test_peer_with_another_name_than_the_dialled_one_is_refused(hosts: TwoHosts, target: Target) -> None:
    impostor = hosts.another("hostc", "127.0.0.5")
    impostor.knows(hosts.a)
    hosts.a.knows(hosts.b, impostor.address)
    entry = hosts.a.leads_to(hosts.b, target.address)
    impostor.egress["hosta"] += [target.address]
    impostor.start()
    impostor.wait_serving()
    hosts.a.start()
    hosts.a.wait_log("the peer's certificate names hostc; expected hostb")
    assert hosts.a.link(hosts.b)["state"] == "down"
    assert not target.called
    hosts.a.kill()
    hosts.a.knows(hosts.b)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_peer_that_does_not_list_this_host_is_reported(hosts: TwoHosts, target: Target) -> None:
    hosts.a.leads_to(hosts.b, target.address)
    hosts.b.peers.clear()
    hosts.b.start()
    hosts.b.wait_serving()
    hosts.a.start()
    hosts.a.wait_log("the peer does not list this host in its configuration.*access_denied")
    hosts.b.wait_log('event="connection rejected".*certificate names hosta; expected')


def test_revoked_peer_is_refused(hosts: TwoHosts, target: Target) -> None:
    hosts.b.crl = hosts.pki.revoke(hosts.a.files)
    hosts.a.leads_to(hosts.b, target.address)
    hosts.b.start()
    hosts.a.start()
    hosts.b.wait_log("the peer's certificate is revoked by ")
    hosts.a.wait_log("the peer refused the connection: .*certificate_revoked.*; see its log")
    assert hosts.a.link(hosts.b)["state"] == "down"

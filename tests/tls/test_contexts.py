"""TLS between two hosts, in memory: which peers are accepted, which are refused, and the error texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL, crypto

from tests.support.pki import (
    CLIENT_ONLY,
    LIBVIRT,
    QEMU,
    SERVER_ONLY,
    Layout,
    Pki,
    expired,
    not_yet_valid,
    rsa_key,
)
from tunnel.certs.authority import key_pem, pem
from tunnel.certs.profile import PrivateKey, Validity, new_key
from tunnel.errors import CertificateError, IdentityError, LaneError
from tunnel.tls import openssl
from tunnel.tls.contexts import (
    ALPN,
    TlsFiles,
    _judge,
    client_context,
    handshake_fault,
    identify,
    load,
    peer_names,
    server_context,
)
from tunnel.tls.openssl import CertificateRejectedError, NoProtocolError, TlsConnection, WantRead, explain
from tunnel.tls.trust import Trust


@pytest.fixture
def pki(tmp: Path) -> Pki:
    return Pki(tmp / "pki")


@pytest.fixture
def hosta(pki: Pki) -> TlsFiles:
    return pki.host("hosta")


@pytest.fixture
def hostb(pki: Pki) -> TlsFiles:
    return pki.host("hostb")


class Wire:
    """Two TLS ends, joined in memory."""

    def __init__(self, client: SSL.Context, server: SSL.Context) -> None:
        self.dialer = TlsConnection(client, dialing=True)
        self.acceptor = TlsConnection(server, dialing=False)
        self.last = self.dialer  # the end that ran last, before an error

    def shake(self) -> Wire:
        """Run the handshake until both ends have verified each other."""
        for end in (self.dialer, self.acceptor, self.dialer, self.acceptor):
            self.last = end
            try:
                with suppress(WantRead):
                    end.handshake()
            finally:
                self.carry()
        return self

    def carry(self) -> None:
        """Move the output of each end to the other."""
        for end, other in ((self.dialer, self.acceptor), (self.acceptor, self.dialer)):
            if flight := end.flight():
                other.feed(flight)

    @staticmethod
    def read(end: TlsConnection) -> SSL.Error | None:
        """Return the error of a read."""
        try:
            end._connection.recv(1)
        except SSL.Error as error:
            return error
        return None


def offering(files: TlsFiles, group: str) -> SSL.Context:
    """Return a context that offers one group."""
    context = foreign(files)
    context.set_alpn_protos([ALPN.encode()])
    assert openssl._lib.SSL_CTX_set1_curves_list(context._context, group.encode())
    return context


def offered_groups(hello: bytes) -> list[int]:
    """Parse supported_groups of a ClientHello in one record (RFC 8446 sections 4.1.2 and 4.2.7)."""
    rest = memoryview(hello)[5 + 4 + 2 + 32 :]
    for width in (1, 2, 1):  # session id, cipher suites, compression
        rest = rest[width + int.from_bytes(rest[:width]) :]
    rest = rest[2:]
    while rest:
        kind, size = int.from_bytes(rest[:2]), int.from_bytes(rest[2:4])
        if kind == 10:
            return [int.from_bytes(rest[start : start + 2]) for start in range(6, 4 + size, 2)]
        rest = rest[4 + size :]
    raise AssertionError("no groups")


def connect(dialing: TlsFiles, accepting: TlsFiles) -> Wire:
    return Wire(client_context(dialing), server_context(accepting)).shake()


def refused_by_dialer(dialing: TlsFiles, accepting: TlsFiles) -> LaneError:
    """Return the dialing end's error for the accepting end's certificate."""
    wire = Wire(client_context(dialing), server_context(accepting))
    with pytest.raises(CertificateRejectedError) as caught:
        wire.shake()
    assert wire.last is wire.dialer
    return handshake_fault(caught.value, dialing, dialing=True)


def refused_by_acceptor(dialing: TlsFiles, accepting: TlsFiles) -> LaneError:
    """Return the accepting end's error; the dialing end must have none."""
    wire = Wire(client_context(dialing), server_context(accepting))
    with pytest.raises(CertificateRejectedError) as caught:
        wire.shake()
    assert wire.last is wire.acceptor
    assert wire.dialer.version == "TLSv1.3"
    return handshake_fault(caught.value, accepting, dialing=False)


# Valid certificates.


def test_hosts_of_one_authority_accept_each_other(hosta: TlsFiles, hostb: TlsFiles) -> None:
    wire = connect(hosta, hostb)
    assert identify(wire.dialer, {"hostb"}) == "hostb"
    assert identify(wire.acceptor, {"hosta", "hostc"}) == "hosta"


def test_lanes_are_tls_1_3_with_our_protocol(hosta: TlsFiles, hostb: TlsFiles) -> None:
    for end in (wire := connect(hosta, hostb)).dialer, wire.acceptor:
        assert end.version == "TLSv1.3"  # which has no compression
        assert end.protocol == "mtunnel/1"


def test_no_session_can_be_resumed(hosta: TlsFiles, hostb: TlsFiles) -> None:
    """Each lane authenticates its ends anew, whatever tickets OpenSSL issues."""
    client, server = client_context(hosta), server_context(hostb)
    client.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    first = Wire(client, server).shake()
    first.read(first.dialer)  # tickets follow the handshake
    again = Wire(client, server)
    session = first.dialer._connection.get_session()
    assert session is not None
    again.dialer._connection.set_session(session)
    again.shake()
    assert not openssl._lib.SSL_session_reused(again.dialer._connection._ssl)
    assert identify(again.acceptor, {"hosta"}) == "hosta"


def test_loaded_contexts_make_lanes(hosta: TlsFiles, hostb: TlsFiles) -> None:
    wire = Wire(load(hosta).client, load(hostb).server).shake()
    assert identify(wire.dialer, {"hostb"}) == "hostb"


@pytest.mark.parametrize("layout", [LIBVIRT, QEMU], ids=["libvirt", "qemu"])
@pytest.mark.parametrize("make_key", [new_key, rsa_key], ids=["ec", "rsa"])
def test_other_layouts_work_unchanged(
    pki: Pki, hostb: TlsFiles, tmp: Path, layout: Layout, make_key: Callable[[], PrivateKey]
) -> None:
    hosta = pki.layout(layout, tmp, "hosta", make_key=make_key)
    assert load(hosta).names == ("hosta",)
    assert identify(connect(hosta, hostb).acceptor, {"hosta"}) == "hosta"
    assert identify(connect(hostb, hosta).dialer, {"hosta"}) == "hosta"


def test_hosts_of_two_authorities_connect_while_one_replaces_the_other(
    pki: Pki, hosta: TlsFiles, tmp: Path
) -> None:
    successor = Pki(tmp / "successor")
    bundle = tmp / "bundle.pem"
    bundle.write_bytes(pem(pki.authority.certificate) + pem(successor.authority.certificate))
    hostb = replace(successor.host("hostb"), ca=bundle)
    wire = connect(replace(hosta, ca=bundle), hostb)
    assert identify(wire.dialer, {"hostb"}) == "hostb"


def test_a_context_can_log_its_keys_without_the_others(hosta: TlsFiles, hostb: TlsFiles) -> None:
    logging, silent = client_context(hosta), client_context(hosta)
    keys: list[bytes] = []
    logging.set_keylog_callback(lambda _, line: keys.append(line))
    Wire(silent, server_context(hostb)).shake()
    assert not keys
    Wire(logging, server_context(hostb)).shake()
    assert any(line.startswith(b"CLIENT_TRAFFIC_SECRET_0") for line in keys)


# Invalid certificates.


def test_an_unknown_authority_is_refused_by_the_dialing_side(hosta: TlsFiles, tmp: Path) -> None:
    other = Pki(tmp / "other")
    fault = refused_by_dialer(hosta, other.host("hostb"))
    assert isinstance(fault, IdentityError)
    issuer = other.authority.certificate.subject.rfc4514_string()
    assert str(fault) == (
        f"the peer's certificate is not signed by an authority in {hosta.ca}: "
        f"its root {issuer} is not in that file"
    )


def test_an_unknown_authority_is_refused_by_the_accepting_side(pki: Pki, hostb: TlsFiles, tmp: Path) -> None:
    stranger = replace(Pki(tmp / "other").host("hosta"), ca=hostb.ca)
    fault = refused_by_acceptor(stranger, hostb)
    assert isinstance(fault, IdentityError)
    assert "not signed by an authority" in str(fault)


def test_a_certificate_that_only_openssl_can_parse_is_refused_like_others(hosta: TlsFiles) -> None:
    der = crypto.load_certificate(crypto.FILETYPE_PEM, hosta.cert.read_bytes())
    odd = crypto.dump_certificate(crypto.FILETYPE_ASN1, der).replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\7", 1)
    with pytest.raises(CertificateRejectedError) as caught:
        _judge(
            Trust.read(hosta), cast("Any", None), crypto.load_certificate(crypto.FILETYPE_ASN1, odd), 20, 0, 0
        )
    assert "its issuer (unreadable) is neither" in str(handshake_fault(caught.value, hosta, dialing=False))


def test_an_authority_of_the_same_name_is_not_the_same(pki: Pki, hosta: TlsFiles, tmp: Path) -> None:
    impostor = Pki(tmp / "other")
    twin = replace(
        impostor.authority, certificate=_renamed(impostor, pki.authority.certificate.subject)
    ).issue("hostb")
    fault = refused_by_dialer(hosta, TlsFiles(hosta.ca, twin.cert, twin.key))
    assert "not signed by an authority" in str(fault)


def _renamed(pki: Pki, subject: x509.Name) -> x509.Certificate:
    """Return the authority's certificate under the name of another."""
    own = pki.authority.certificate
    builder = x509.CertificateBuilder(
        subject,
        subject,
        own.public_key(),
        own.serial_number,
        own.not_valid_before_utc,
        own.not_valid_after_utc,
    )
    for extension in own.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(pki.authority.key, hashes.SHA256())


@pytest.mark.parametrize(
    ("validity", "words"),
    [(expired(), "has expired: issue a new one"), (not_yet_valid(), "is not valid yet: check the clocks")],
    ids=["expired", "not yet valid"],
)
def test_dates_are_checked_by_both_sides(pki: Pki, hosta: TlsFiles, validity: Validity, words: str) -> None:
    hostb = pki.host("hostb", validity=validity)
    assert words in str(refused_by_dialer(hosta, hostb))
    assert words in str(refused_by_acceptor(hostb, hosta))


def test_a_revoked_host_is_refused_by_both_sides(pki: Pki, hosta: TlsFiles, hostb: TlsFiles) -> None:
    strict = replace(hosta, crl=pki.revoke(hostb))
    for refusal in (refused_by_dialer(strict, hostb), refused_by_acceptor(hostb, strict)):
        assert re.search(
            rf"is revoked by the CRL of CN=.* in {strict.crl} \(this update .* UTC\)$", str(refusal)
        )


def test_a_crl_does_not_affect_other_hosts(pki: Pki, hosta: TlsFiles, hostb: TlsFiles) -> None:
    strict = replace(hosta, crl=pki.revoke(pki.host("hostc")))
    assert identify(connect(strict, hostb).dialer, {"hostb"}) == "hostb"


def test_usages_are_checked_by_both_sides(pki: Pki, hosta: TlsFiles) -> None:
    assert "not fit for accepting" in str(refused_by_dialer(hosta, pki.host("hostb", usages=CLIENT_ONLY)))
    assert "not fit for dialing" in str(refused_by_acceptor(pki.host("hostc", usages=SERVER_ONLY), hosta))


def test_the_dialing_side_gets_the_alert_with_its_first_read(hostb: TlsFiles, tmp: Path) -> None:
    stranger = replace(Pki(tmp / "other").host("hosta"), ca=hostb.ca)
    wire = Wire(client_context(stranger), server_context(hostb))
    with pytest.raises(CertificateRejectedError):
        wire.shake()
    error = wire.read(wire.dialer)
    assert error is not None
    fault = handshake_fault(error, stranger, dialing=True)
    assert not isinstance(fault, IdentityError)
    assert "the peer refused the TLS handshake: tlsv1 alert unknown ca" in str(fault)


# A peer that is another program.


def foreign(files: TlsFiles, newest: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    """Return a context that another program might have."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(newest)
    context.set_verify(SSL.VERIFY_PEER)
    context.load_verify_locations(str(files.ca))
    context.use_certificate_chain_file(str(files.cert))
    context.use_privatekey_file(str(files.key))
    return context


def failure(wire: Wire, files: TlsFiles) -> str:
    """Do a handshake that fails; return the error of the end that ran last."""
    with pytest.raises(SSL.Error) as caught:
        wire.shake()
    return str(handshake_fault(caught.value, files, dialing=wire.last is wire.dialer))


def test_no_client_certificate_is_refused(hostb: TlsFiles) -> None:
    bare = SSL.Context(SSL.TLS_METHOD)
    bare.load_verify_locations(str(hostb.ca))
    words = failure(Wire(bare, server_context(hostb)), hostb)
    assert words == "the TLS handshake failed: peer did not return a certificate"


def test_tls_1_2_is_refused_by_the_accepting_side(hosta: TlsFiles, hostb: TlsFiles) -> None:
    old = foreign(hosta, SSL.TLS1_2_VERSION)
    assert "unsupported protocol" in failure(Wire(old, server_context(hostb)), hostb)


def test_tls_1_2_is_refused_by_the_dialing_side(hosta: TlsFiles, hostb: TlsFiles) -> None:
    wire = Wire(client_context(hosta), foreign(hostb, SSL.TLS1_2_VERSION))
    failure(wire, hostb)
    with pytest.raises(SSL.Error) as caught:
        wire.dialer.handshake()
    assert "protocol version" in str(handshake_fault(caught.value, hosta, dialing=True))


def test_a_peer_that_offers_no_protocol_is_refused(hosta: TlsFiles, hostb: TlsFiles) -> None:
    with pytest.raises(IdentityError, match="does not support mtunnel/1"):
        identify(Wire(foreign(hosta), server_context(hostb)).shake().acceptor, {"hosta"})


def test_a_peer_that_offers_other_protocols_is_refused_in_the_handshake(
    hosta: TlsFiles, hostb: TlsFiles
) -> None:
    other = foreign(hosta)
    other.set_alpn_protos([b"h2", b"\xff"])
    wire = Wire(other, server_context(hostb))
    with pytest.raises(NoProtocolError) as caught:
        wire.shake()
    assert wire.last is wire.acceptor
    fault = handshake_fault(caught.value, hostb, dialing=False)
    assert isinstance(fault, IdentityError)
    assert str(fault).startswith("the peer does not support mtunnel/1 (ALPN: h2, \\xff)")
    with pytest.raises(SSL.Error) as alert:
        wire.dialer.handshake()
    assert explain(alert.value) == "tlsv1 alert no application protocol"


def test_only_our_groups_are_offered_and_accepted(hosta: TlsFiles, hostb: TlsFiles) -> None:
    for group, name in {"X25519": "x25519", "P-256": "secp256r1", "P-384": "secp384r1"}.items():
        wire = Wire(offering(hosta, group), server_context(hostb)).shake()
        assert wire.acceptor._connection.get_group_name() in {name, group}
    for group in ("P-521", "X448", "ffdhe2048", "ffdhe3072"):
        with pytest.raises(SSL.Error) as caught:
            Wire(offering(hosta, group), server_context(hostb)).shake()
        assert "no suitable" in explain(caught.value) or "no shared group" in explain(caught.value), group


def test_our_hello_offers_the_groups_that_we_accept(hosta: TlsFiles) -> None:
    dialer = TlsConnection(client_context(hosta), dialing=True)
    with suppress(WantRead):
        dialer.handshake()
    x25519mlkem768, x25519, p256, p384 = 0x11EC, 0x001D, 0x0017, 0x0018
    assert offered_groups(dialer.flight()) in ([x25519mlkem768, x25519, p256, p384], [x25519, p256, p384])


def test_a_peer_that_was_not_verified_is_refused(hosta: TlsFiles, hostb: TlsFiles) -> None:
    careless = foreign(hosta)
    careless.set_verify(SSL.VERIFY_NONE)
    careless.set_alpn_protos([ALPN.encode()])
    wire = Wire(careless, server_context(hostb)).shake()
    assert peer_names(wire.dialer) == ()
    with pytest.raises(IdentityError, match="names no host"):
        identify(wire.dialer, {"hostb"})


# The identity of a valid certificate.


def seen_by_acceptor(pki: Pki, hostb: TlsFiles, *names: str) -> TlsConnection:
    return connect(pki.host(names[0], dns=names[1:]), hostb).acceptor


def test_names_are_the_dns_sans_in_order(pki: Pki, hostb: TlsFiles) -> None:
    assert peer_names(seen_by_acceptor(pki, hostb, "HostA", "alias.example")) == ("hosta", "alias.example")


def test_another_host_of_the_same_authority_is_refused(pki: Pki, hostb: TlsFiles) -> None:
    lane = seen_by_acceptor(pki, hostb, "hosta", "hosta.example")
    with pytest.raises(IdentityError) as caught:
        identify(lane, ["hostd", "hostc"])
    assert str(caught.value) == "the peer's certificate names hosta, hosta.example; expected hostc or hostd"


def test_a_name_is_returned_as_it_was_configured(pki: Pki, hostb: TlsFiles) -> None:
    assert identify(seen_by_acceptor(pki, hostb, "hosta"), {"HostA": 1, "hostc": 2}) == "HostA"


@pytest.mark.parametrize("expected", ["host", "hosta.example", "a.hosta", "hosta.", "", "*"])
def test_a_part_of_a_name_is_not_the_name(pki: Pki, hostb: TlsFiles, expected: str) -> None:
    with pytest.raises(IdentityError):
        identify(seen_by_acceptor(pki, hostb, "hosta"), {expected})


def test_a_peer_with_two_configured_names_is_refused(pki: Pki, hostb: TlsFiles) -> None:
    lane = seen_by_acceptor(pki, hostb, "hosta", "hostc")
    with pytest.raises(
        IdentityError, match="more than one configured peer: hosta, hostc; issue one cert"
    ) as caught:
        identify(lane, ["hosta", "hostc"])
    assert caught.value.claimed == ("hosta", "hostc")
    assert identify(lane, ["hosta", "hostd"]) == "hosta"


def with_sans(pki: Pki, directory: Path, sans: bytes | None) -> TlsFiles:
    """Make a host with CN "hosta" and arbitrary bytes, or none, as subject alternative name extension."""
    key = new_key()
    own = x509.load_pem_x509_certificate(pki.certificate(key, "hosta"))
    builder = x509.CertificateBuilder(
        own.issuer,
        own.subject,
        own.public_key(),
        own.serial_number,
        own.not_valid_before_utc,
        own.not_valid_after_utc,
    )
    for extension in own.extensions:
        if extension.oid != x509.SubjectAlternativeName.oid:
            builder = builder.add_extension(extension.value, extension.critical)
    if sans is not None:
        odd = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, sans)
        builder = builder.add_extension(odd, critical=False)
    host = pki.host("hosta")
    host.cert.write_bytes(pem(builder.sign(pki.authority.key, hashes.SHA256())))
    host.key.write_bytes(key_pem(key))
    return host


def dns_san(name: str) -> bytes:
    """Return the DER of a SubjectAlternativeName with one dNSName of arbitrary characters."""
    value = name.encode()
    return bytes([0x30, len(value) + 2, 0x82, len(value)]) + value


@pytest.mark.parametrize(
    "san",
    ["hosta\0.example", "hos\u212a", "hosta\n"],
    ids=["zero byte", "kelvin sign, in lower case a k", "line feed"],
)
def test_invalid_names_are_ignored(pki: Pki, hostb: TlsFiles, tmp: Path, san: str) -> None:
    assert peer_names(connect(with_sans(pki, tmp, dns_san(san)), hostb).acceptor) == ()


def test_a_wildcard_matches_no_host(pki: Pki, hostb: TlsFiles, tmp: Path) -> None:
    lane = connect(with_sans(pki, tmp, dns_san("*.example")), hostb).acceptor
    with pytest.raises(IdentityError, match=r"names \*\.example; expected hosta\.example"):
        identify(lane, {"hosta.example"})


def test_an_address_is_not_an_identity(pki: Pki, hostb: TlsFiles) -> None:
    pair = pki.authority.issue("hosta", ips=[ip_address("192.0.2.1")])
    lane = connect(TlsFiles(hostb.ca, pair.cert, pair.key), hostb).acceptor
    with pytest.raises(IdentityError):
        identify(lane, {"192.0.2.1"})


def test_a_common_name_is_not_an_identity(pki: Pki, hostb: TlsFiles, tmp: Path) -> None:
    host = with_sans(pki, tmp, None)
    with pytest.raises(IdentityError, match="names no host"):
        identify(connect(host, hostb).acceptor, {"hosta"})
    with pytest.raises(CertificateError, match=r"hosta\.pem has no DNS subject alternative name"):
        load(host)

"""Our own files are tested when they are loaded, before they are used."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.pki import CLIENT_ONLY, LIBVIRT, QEMU, SERVER_ONLY, Layout, Pki, expired, not_yet_valid
from tests.support.signers import Signer
from tunnel.certs.authority import key_pem
from tunnel.certs.profile import Validity
from tunnel.errors import CertificateError
from tunnel.tls.contexts import TlsFiles, load
from tunnel.tls.lane_kinds import KernelTlsSupport, LaneKind
from tunnel.tls.openssl import TlsConnection, WantRead
from tunnel.tls.rejections import now


@pytest.fixture
def pki(tmp: Path) -> Pki:
    return Pki(tmp / "pki")


@pytest.fixture
def hosta(pki: Pki) -> TlsFiles:
    return pki.host("hosta")


def test_load_returns_names_and_expiry(pki: Pki) -> None:
    files = pki.host("hosta", dns=["HostA.Example"])
    contexts = load(files)
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert contexts.names == ("hosta", "hosta.example")
    assert contexts.expiries(now())[0].ends == certificate.not_valid_after_utc
    assert contexts.files == files


def test_expiries_start_with_the_certificate_that_expires_first(pki: Pki, tmp: Path) -> None:
    files = pki.layout(QEMU, tmp, "hosta")
    soon = Validity(datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1))
    short = pki.authority.issue("hosta", validity=soon, usages=CLIENT_ONLY)
    cert, key = files.dialing()
    short.cert.replace(cert)
    short.key.replace(key)
    first = load(files).expiries(now())[0]
    assert first.ends == x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    assert first.what == f"the certificate {cert}"


@pytest.mark.parametrize(
    ("validity", "words"),
    [(expired(), "has expired"), (not_yet_valid(), "is not valid yet")],
    ids=["expired", "not yet valid"],
)
def test_load_refuses_a_certificate_outside_its_validity(pki: Pki, validity: Validity, words: str) -> None:
    with pytest.raises(CertificateError, match=rf"the certificate .*hosta\.pem {words}"):
        load(pki.host("hosta", validity=validity))


def test_load_refuses_a_certificate_of_another_authority(hosta: TlsFiles, tmp: Path) -> None:
    other = Pki(tmp / "other").authority.files.cert
    with pytest.raises(
        CertificateError, match=r"hosta\.pem is not signed by an authority in .*other/ca\.pem"
    ):
        load(replace(hosta, ca=other))


def test_load_refuses_a_revoked_certificate(pki: Pki, hosta: TlsFiles) -> None:
    with pytest.raises(
        CertificateError, match=r"hosta\.pem is revoked by the CRL of CN=.* in .*crl\.pem \(this"
    ):
        load(replace(hosta, crl=pki.revoke(hosta)))


def test_load_refuses_an_expired_crl(pki: Pki, hosta: TlsFiles) -> None:
    dates = r"\(next update .* UTC, it is .* UTC here\)"
    with pytest.raises(CertificateError, match=rf"the CRL of CN=.* in .*crl\.pem has expired: .* {dates}"):
        load(replace(hosta, crl=pki.revoke(lasting=timedelta(days=-1))))


def test_load_refuses_a_crl_of_another_authority(hosta: TlsFiles, tmp: Path) -> None:
    with pytest.raises(CertificateError, match=r"crl\.pem has no CRL of its issuer CN="):
        load(replace(hosta, crl=Pki(tmp / "other").revoke()))


@pytest.mark.parametrize(
    ("usages", "words"),
    [
        (SERVER_ONLY, "not fit for dialing: issue one with the extended key usage clientAuth$"),
        (CLIENT_ONLY, "not fit for accepting: issue one with the extended key usage serverAuth$"),
    ],
    ids=["server only", "client only"],
)
def test_load_refuses_a_certificate_for_one_role(
    pki: Pki, usages: tuple[x509.ObjectIdentifier, ...], words: str
) -> None:
    with pytest.raises(CertificateError, match=words):
        load(pki.host("hosta", usages=usages))


def test_an_unsupported_key_type_is_refused_with_the_supported_ones(pki: Pki) -> None:
    files, key = pki.host("hosta"), ec.generate_private_key(ec.SECP256K1())
    files.cert.write_bytes(pki.certificate(key, "hosta"))
    files.key.write_bytes(key_pem(key))
    with pytest.raises(
        CertificateError, match=r"cannot be used for TLS 1\.3: .*; supported keys are EC P-256 and"
    ):
        load(files)


def test_an_intermediate_for_one_role_is_not_blamed_on_a_missing_client_certificate(tmp: Path) -> None:
    inter = Signer("inter", Signer("root"), usages=SERVER_ONLY)
    files = inter.host("hosta").files(tmp, inter, ca=[inter.issuer])
    files.cert.replace(tmp / "server-cert.pem")
    with pytest.raises(CertificateError, match=r"the intermediate CN=inter in .* clientAuth$"):
        load(replace(files, cert=tmp / "server-cert.pem"))


@pytest.mark.parametrize("layout", [LIBVIRT, QEMU], ids=["libvirt", "qemu"])
def test_load_names_a_missing_client_certificate(pki: Pki, tmp: Path, layout: Layout) -> None:
    files = pki.layout(layout, tmp, "hosta")
    (tmp / layout.client_cert).unlink()
    with pytest.raises(
        CertificateError, match=f"not fit for dialing.*, or put one at {tmp / layout.client_cert}"
    ):
        load(files)


def test_a_missing_client_certificate_is_not_blamed_for_other_faults(pki: Pki, tmp: Path) -> None:
    files = pki.layout(QEMU, tmp, "hosta")
    (tmp / QEMU.client_cert).unlink()
    stranger = Pki(tmp / "other").authority.files.cert
    with pytest.raises(
        CertificateError,
        match=r"server-cert\.pem is not signed by an authority in \S+: its issuer [^:]* nor in the chain$",
    ):
        load(replace(files, ca=stranger))


def test_load_names_a_missing_client_key(pki: Pki, tmp: Path) -> None:
    files = pki.layout(LIBVIRT, tmp, "hosta")
    (tmp / LIBVIRT.client_key).unlink()
    with pytest.raises(CertificateError, match=r"cannot read the private key .*private/clientkey\.pem"):
        load(files)


def test_a_server_pair_for_both_roles_needs_no_client_pair(pki: Pki, tmp: Path) -> None:
    pair = pki.authority.issue("hosta")
    cert, key = pair.cert.with_name("server-cert.pem"), pair.key.with_name("server-key.pem")
    pair.cert.replace(cert)
    pair.key.replace(key)
    assert load(TlsFiles(pki.authority.files.cert, cert, key)).names == ("hosta",)


def test_both_certificates_of_a_layout_must_name_this_host(pki: Pki, tmp: Path) -> None:
    with pytest.raises(CertificateError, match="share no DNS subject alternative name"):
        load(pki.layout(QEMU, tmp, "hosta", client="laptop"))


def test_contexts_for_kernel_lanes_use_only_suites_of_the_kernel(tmp: Path) -> None:
    files = Pki(tmp).host("hosta")
    assert load(files).lane is LaneKind.USERSPACE
    contexts = load(files, KernelTlsSupport(("TLS_CHACHA20_POLY1305_SHA256",), "tried"))
    assert contexts.lane is LaneKind.KERNEL
    dialer = TlsConnection(contexts.client, dialing=True)
    acceptor = TlsConnection(load(files).server, dialing=False)
    for end, peer in ((dialer, acceptor), (acceptor, dialer)) * 2:
        with suppress(WantRead):
            end.handshake()
        if flight := end.flight():
            peer.feed(flight)
    assert dialer.cipher == acceptor.cipher == "TLS_CHACHA20_POLY1305_SHA256"
    assert dialer.secrets

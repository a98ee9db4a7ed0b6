"""Error texts of verification failures: they name the certificate and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.signers import Signer, day
from tunnel.certs.profile import new_key
from tunnel.tls.openssl import CertificateRejectedError
from tunnel.tls.rejections import MOST_NAME, Verify, at, explain_rejection, name_of
from tunnel.tls.tls_files import TlsFiles

FILES = TlsFiles(Path("ca.pem"), Path("hosta.pem"), Path("hosta.key"), Path("crl.pem"))
ROOT = Signer("root")
INTER = Signer("inter", ROOT, until=-1)
CRL = x509.load_pem_x509_crl(ROOT.crl(until=5))


@pytest.mark.parametrize(
    ("depth", "trusted", "whose", "subject"),
    [
        (0, False, "", "the certificate hosta.pem"),
        (0, False, "the peer's", "the peer's certificate"),
        (1, False, "", "the intermediate CN=inter in hosta.pem"),
        (1, False, "hostb's", "hostb's intermediate certificate CN=inter"),
        (2, True, "", "the authority CN=inter of the certificate hosta.pem"),
        (2, True, "hostb's", "the authority CN=inter of hostb's certificate"),
    ],
)
def test_the_certificate_at_fault_is_named(depth: int, trusted: bool, whose: str, subject: str) -> None:
    fault = CertificateRejectedError(Verify.CERT_REVOKED, depth, INTER.certificate, trusted=trusted, crl=CRL)
    assert explain_rejection(fault, FILES, whose, dialing=False) == (
        f"{subject} is revoked by the CRL of CN=root in crl.pem (this update {at(day(-1))})"
    )


@pytest.mark.parametrize("code", [*Verify, 1])
def test_every_error_has_a_text(code: int) -> None:
    words = explain_rejection(
        CertificateRejectedError(code, 1, INTER.certificate), FILES, "hostb's", dialing=True
    )
    assert "{" not in words
    assert "None" not in words


def test_dates_are_shown_with_the_current_time() -> None:
    """A certificate or a CRL that is not valid may mean a wrong clock."""
    expired = CertificateRejectedError(Verify.CERT_HAS_EXPIRED, 1, INTER.certificate)
    assert f"(valid until {at(day(-1))}, it is {at(day(0))} here)" in explain_rejection(
        expired, FILES, "", dialing=False, clock=lambda: day(0)
    )
    early = CertificateRejectedError(Verify.CERT_NOT_YET_VALID, 1, INTER.certificate)
    assert f"(valid from {at(day(-3))}, it is {at(day(-9))} here)" in explain_rejection(
        early, FILES, "", dialing=False, clock=lambda: day(-9)
    )
    ended = CertificateRejectedError(Verify.CRL_HAS_EXPIRED, 1, INTER.certificate, crl=CRL)
    words = explain_rejection(ended, FILES, "", dialing=False, clock=lambda: day(6))
    assert f"(next update {at(day(5))}, it is {at(day(6))} here)" in words
    soon = CertificateRejectedError(Verify.CRL_NOT_YET_VALID, 1, INTER.certificate, crl=CRL)
    words = explain_rejection(soon, FILES, "", dialing=False, clock=lambda: day(-9))
    assert (
        f"the CRL of CN=root in crl.pem is not valid yet: check the clocks (this update {at(day(-1))}"
        in words
    )


def test_a_missing_issuer_is_named() -> None:
    fault = CertificateRejectedError(Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY, 1, INTER.certificate)
    assert explain_rejection(fault, FILES, "", dialing=False).endswith(
        "is not signed by an authority in ca.pem: its issuer CN=root is neither in that file nor in the chain"
    )


def test_an_unknown_root_is_named() -> None:
    fault = CertificateRejectedError(Verify.SELF_SIGNED_CERT_IN_CHAIN, 1, ROOT.certificate)
    assert explain_rejection(fault, FILES, "the peer's", dialing=False) == (
        "the peer's certificate is not signed by an authority in ca.pem: its root CN=root is not in that file"
    )


@pytest.mark.parametrize(("dialing", "usage"), [(True, "clientAuth"), (False, "serverAuth")])
def test_a_missing_usage_of_a_role_is_named(dialing: bool, usage: str) -> None:
    fault = CertificateRejectedError(Verify.INVALID_PURPOSE, 0, INTER.certificate)
    assert explain_rejection(fault, FILES, "", dialing=dialing).endswith(f"extended key usage {usage}")


@pytest.mark.parametrize(
    ("extended", "missing"),
    [
        (ExtendedKeyUsageOID.CLIENT_AUTH, "the key usage digitalSignature"),
        (ExtendedKeyUsageOID.SERVER_AUTH, "the extended key usage clientAuth"),
    ],
)
def test_only_a_missing_usage_is_advised(extended: x509.ObjectIdentifier, missing: str) -> None:
    key = new_key()
    name = x509.Name([])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
        .sign(key, hashes.SHA256())
    )
    fault = CertificateRejectedError(Verify.INVALID_PURPOSE, 0, certificate)
    assert explain_rejection(fault, FILES, "", dialing=True).endswith(f"issue one with {missing}")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("evil\n\x1b[31mRED", "CN=evil\ufffd\ufffd[31mRED"), ("A" * 64, f"CN={'A' * 64}")],
)
def test_control_characters_in_names_are_replaced(name: str, shown: str) -> None:
    fault = CertificateRejectedError(
        Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY, 0, Signer("x", Signer(name)).certificate
    )
    assert f"its issuer {shown} is neither" in explain_rejection(fault, FILES, "the peer's", dialing=True)


def test_long_names_are_truncated() -> None:
    common = [x509.NameAttribute(NameOID.COMMON_NAME, "A" * 64)] * 500
    assert len(name_of(x509.Name(common))) == MOST_NAME


@pytest.mark.parametrize("code", Verify)
def test_a_certificate_that_cannot_be_parsed_has_an_error_text(code: int) -> None:
    words = explain_rejection(CertificateRejectedError(code), FILES, "the peer's", dialing=True)
    assert words.startswith("the peer's certificate ")

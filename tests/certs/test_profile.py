"""The profiles of CA and host certificates, extension by extension."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunnel.certs.profile import Validity, ca_certificate, host_certificate, new_key

CA_KEY = new_key()
CA = ca_certificate(CA_KEY, Validity.lasting(10))


def host(*names: str) -> x509.Certificate:
    return host_certificate(
        new_key().public_key(),
        issuer=CA,
        issuer_key=CA_KEY,
        names=names,
        ips=[ip_address("192.0.2.1")],
        validity=Validity.lasting(5),
    )


def test_keys_are_p256() -> None:
    assert isinstance(new_key().curve, ec.SECP256R1)


def test_ca_may_sign_certificates_and_crls_but_no_other_ca() -> None:
    constraints = CA.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = CA.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert not usage.value.digital_signature


def test_ca_is_self_signed() -> None:
    CA.verify_directly_issued_by(CA)


def test_two_cas_have_different_names() -> None:
    assert ca_certificate(new_key(), Validity.lasting(10)).subject != CA.subject


def test_host_certificate_is_signed_by_the_ca_and_has_its_key_identifier() -> None:
    certificate = host("hosta")
    certificate.verify_directly_issued_by(CA)
    ca_id = CA.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == ca_id.key_identifier
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value != ca_id


def test_issuer_without_a_key_identifier_is_identified_by_the_hash_of_its_key() -> None:
    """RFC 5280 forbids such a CA; ``openssl req -x509`` with a minimal configuration creates one."""
    bare = (
        x509.CertificateBuilder()
        .subject_name(CA.subject)
        .issuer_name(CA.subject)
        .public_key(CA_KEY.public_key())
        .serial_number(1)
        .not_valid_before(CA.not_valid_before_utc)
        .not_valid_after(CA.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(CA_KEY, hashes.SHA256())
    )
    certificate = host_certificate(
        new_key().public_key(), issuer=bare, issuer_key=CA_KEY, names=["hosta"], validity=Validity.lasting(5)
    )
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    expected = x509.SubjectKeyIdentifier.from_public_key(CA_KEY.public_key())
    assert found.key_identifier == expected.key_identifier


def test_host_certificate_serves_both_roles_and_signs_nothing() -> None:
    extensions = host("hosta").extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_encipherment, "libvirt and QEMU require it"
    assert not usage.key_cert_sign
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }


def test_host_certificate_names_its_host() -> None:
    certificate = host("hosta", "hosta.example")
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert sans.value.get_values_for_type(x509.DNSName) == ["hosta", "hosta.example"]
    assert sans.value.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.1")]
    assert not sans.critical
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "hosta"


def test_a_name_too_long_for_the_subject_is_in_a_critical_san() -> None:
    name = ".".join(["a" * 40, "b" * 40])
    certificate = host(name)
    assert not list(certificate.subject)
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert sans.critical
    assert sans.value.get_values_for_type(x509.DNSName) == [name]


def test_serials_are_random() -> None:
    serials = {host("hosta").serial_number for _ in range(4)}
    assert len(serials) == 4
    assert min(serials).bit_length() > 64


@pytest.mark.parametrize("days", [1, 365])
def test_validity_begins_before_now_and_ends_after_the_days(days: int) -> None:
    now = datetime.now(UTC)
    validity = Validity.lasting(days)
    assert timedelta(minutes=5) <= now - validity.not_before <= timedelta(hours=2)
    assert abs(validity.not_after - now - timedelta(days=days)) < timedelta(seconds=10)

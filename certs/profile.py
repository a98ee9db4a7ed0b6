"""The two certificate profiles of an mtunnel network: the CA and a host.

Keys and dates in, certificates out, no file access. The extensions follow RFC 5280 section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunnel.certs.subject_names import IpAddress

CA_DAYS = 3650
HOST_DAYS = 365

# A hypervisor is TLS client and TLS server, so one certificate serves both roles.
HOST_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

# Hosts whose clocks are slow must accept a certificate that was just issued.
_CLOCK_SKEW = timedelta(hours=1)

# RFC 5280 appendix A.1, ub-common-name. A longer name is in the SAN only.
_COMMON_NAME_MAX = 64

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Validity:
    """The validity period of a certificate; both ends are aware UTC times."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def lasting(cls, days: int) -> Validity:
        """Return a validity of ``days`` days from now."""
        now = datetime.now(UTC).replace(microsecond=0)
        return cls(now - _CLOCK_SKEW, now + timedelta(days=days))


def new_key() -> ec.EllipticCurvePrivateKey:
    """Generate an EC P-256 private key."""
    return ec.generate_private_key(ec.SECP256R1())


def ca_certificate(key: PrivateKey, validity: Validity) -> x509.Certificate:
    """Return the self-signed certificate of a CA that signs hosts only (path length 0)."""
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Messages distinguish CAs by the beginning of their key identifier.
    name = _common_name(f"mtunnel CA {key_id.digest.hex()[:8]}")
    builder = (
        _builder(name, name, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def host_certificate(
    public_key: PublicKey,
    *,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    names: Sequence[str],
    ips: Sequence[IpAddress] = (),
    validity: Validity,
    usages: Sequence[x509.ObjectIdentifier] = HOST_USAGES,
) -> x509.Certificate:
    """Return a host certificate, signed by ``issuer_key``.

    ``names`` are its DNS names, the first one that of the host; ``usages`` are its extended key usages.
    """
    subject = _common_name(names[0]) if len(names[0]) <= _COMMON_NAME_MAX else x509.Name([])
    sans = [*map(x509.DNSName, names), *map(x509.IPAddress, ips)]
    builder = (
        _builder(subject, issuer.subject, public_key, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # TLS 1.3 does not use key encipherment, but libvirt and QEMU require it: the certificate can be
        # used by them too.
        .add_extension(_key_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # RFC 5280 section 4.2.1.6: critical when the subject is empty.
        .add_extension(x509.SubjectAlternativeName(sans), critical=not list(subject))
        .add_extension(_authority_id(issuer), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())


def _authority_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the issuer's key identifier: its subject key identifier, else the hash of its key."""
    try:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key_id = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key())  # RFC 5280 section 4.2.1.2
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

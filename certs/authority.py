"""A private certificate authority in one directory.

``ca.pem`` is copied to every host; ``ca.key`` stays in the directory, with ``NAME.pem`` and ``NAME.key`` of
each host. All keys are EC P-256 and written without a passphrase: a daemon starts unattended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from tunnel.certs.pair_files import Pair, write_pair
from tunnel.certs.profile import (
    CA_DAYS,
    HOST_DAYS,
    HOST_USAGES,
    PrivateKey,
    Validity,
    ca_certificate,
    host_certificate,
    new_key,
)
from tunnel.certs.subject_names import IpAddress, dns_name
from tunnel.errors import CertificateError, UsageError
from tunnel.files import read_regular

_CA = "ca"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h
_NEEDED = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its key. ``create`` makes one, ``load`` opens one."""

    files: Pair
    certificate: x509.Certificate
    key: PrivateKey

    @classmethod
    def create(cls, directory: Path, *, validity: Validity | None = None, force: bool = False) -> Authority:
        """Create a CA in ``directory``, which is created with mode 0700 when it is missing.

        Raises ``CertificateError`` when a CA already exists (``force`` replaces it, which invalidates every
        certificate that the old one signed), or when the files cannot be written.
        """
        _make_directory(directory)
        files = Pair.named(directory, _CA)
        key = new_key()
        certificate = ca_certificate(key, validity or Validity.lasting(CA_DAYS))
        write_pair(files, pem(certificate), key_pem(key), force=force)
        return cls(files, certificate, key)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Open the CA in ``directory``; raises ``CertificateError`` when it is missing or damaged."""
        files = Pair.named(directory, _CA)
        certificate, key = _read_certificate(files.cert), _read_key(files.key)
        if certificate.public_key() != key.public_key():
            raise CertificateError(
                f"the private key {files.key} does not match {files.cert}: restore both from a backup"
            )
        return cls(files, certificate, key)

    def issue(
        self,
        name: str,
        *,
        dns: Iterable[str] = (),
        ips: Sequence[IpAddress] = (),
        validity: Validity | None = None,
        usages: Sequence[x509.ObjectIdentifier] = HOST_USAGES,
        force: bool = False,
    ) -> Pair:
        """Create a key and a certificate for the host ``name``, in the CA's directory.

        ``dns`` and ``ips`` are additional names. Raises ``UsageError`` for an invalid host name, and
        ``CertificateError`` when the certificate would outlive the CA or be rejected, when the files exist
        and ``force`` is not given, or when they cannot be written.
        """
        names = list(dict.fromkeys(map(dns_name, [name, *dns])))
        if names[0] == _CA:
            raise UsageError(f"a host cannot be named {_CA!r}: the name is reserved for the CA")
        validity = validity or Validity.lasting(HOST_DAYS)
        self._require_outliving(validity)
        key = new_key()
        certificate = host_certificate(
            key.public_key(),
            issuer=self.certificate,
            issuer_key=self.key,
            names=names,
            ips=ips,
            validity=validity,
            usages=usages,
        )
        self._require_acceptance(certificate)
        pair = Pair.named(self.files.cert.parent, names[0])
        write_pair(pair, pem(certificate), key_pem(key), force=force)
        return pair

    def _require_outliving(self, validity: Validity) -> None:
        end = self.certificate.not_valid_after_utc
        if validity.not_after <= end:
            return
        days = (end - datetime.now(UTC)).days
        remedy = f"use --days {days} or less, or create a new CA" if days > 0 else "create a new CA"
        raise CertificateError(f"the CA certificate {self.files.cert} expires on {end:%Y-%m-%d}: {remedy}")

    def _require_acceptance(self, certificate: x509.Certificate) -> None:
        """Verify the new certificate with OpenSSL, as every host will, except for its dates."""
        store = crypto.X509Store()
        store.add_cert(crypto.X509.from_cryptography(self.certificate))
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(certificate)).verify_certificate()
        except crypto.X509StoreContextError as error:
            fault = f"certificates signed by {self.files.cert} would be rejected by every host: {error}"
            raise CertificateError(fault) from error


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    """Return a private key as PEM (PKCS #8), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"cannot create the directory {directory}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        remedy = f"run `mtunnel certs init {path.parent}` first"
        raise CertificateError(f"no CA in {path.parent}: {path.name} is missing; {remedy}") from error
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error


def _read_certificate(path: Path) -> x509.Certificate:
    content = _read(path)
    try:
        certificate = x509.load_pem_x509_certificate(content)
        extensions = {extension.oid: extension.value for extension in certificate.extensions}
        certificate.public_key()
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} is not a CA certificate: {error}") from error
    if fault := _unfit(extensions):
        raise CertificateError(f"{path} is not a CA certificate: {fault}")
    return certificate


def _unfit(extensions: Mapping[x509.ObjectIdentifier, x509.ExtensionType]) -> str:
    """Return why certificates signed by this CA would be rejected (RFC 5280 section 4.2.1), or ""."""
    constraints = extensions.get(x509.BasicConstraints.oid)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        return "basicConstraints lacks CA:TRUE"
    key_usage = extensions.get(x509.KeyUsage.oid)
    if isinstance(key_usage, x509.KeyUsage) and not key_usage.key_cert_sign:
        return "keyUsage lacks keyCertSign"
    usages = extensions.get(x509.ExtendedKeyUsage.oid)
    if isinstance(usages, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        missing = [name for usage, name in _NEEDED.items() if usage not in usages]
        if missing:
            return f"extendedKeyUsage lacks {', '.join(missing)}"
    return ""


def _read_key(path: Path) -> PrivateKey:
    content = _read(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise CertificateError(f"{path} is not a usable private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"{path} is neither an EC nor an RSA key")
    return key

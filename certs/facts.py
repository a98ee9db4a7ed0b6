"""The contents of a certificate file, as text or JSON: ``mtunnel certs show``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tunnel.errors import CertificateError
from tunnel.files import read_regular

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_USAGE_NAMES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}


class KeyState(StrEnum):
    """Whether the private key next to a certificate file belongs to it."""

    MATCHES = "matches"
    MISSING = "missing"
    MISMATCH = "mismatch"
    OF_ANOTHER = "of another"
    ENCRYPTED = "encrypted"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Facts:
    """One certificate of a file. ``serial`` is in hexadecimal, ``sha256`` is over the DER, times are UTC."""

    file: Path
    subject: str
    issuer: str
    serial: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    usages: tuple[str, ...]
    key_type: str
    sha256: str
    is_ca: bool
    key: KeyState
    key_file: Path | None

    def days_left(self, now: datetime | None = None) -> int:
        """Return the whole days until the certificate expires; negative once it has."""
        return (self.not_after - (now or datetime.now(UTC))).days

    def as_json(self) -> dict[str, object]:
        """Return the facts under the stable keys of ``show --json``; times are ISO 8601."""
        return {
            "file": str(self.file),
            "subject": self.subject,
            "issuer": self.issuer,
            "serial": self.serial,
            "dns_names": list(self.dns_names),
            "ip_addresses": list(self.ip_addresses),
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
            "days_left": self.days_left(),
            "usages": list(self.usages),
            "key_type": self.key_type,
            "sha256": self.sha256,
            "is_ca": self.is_ca,
            "key": self.key.value,
            "key_file": str(self.key_file) if self.key_file else None,
        }


def read(path: Path) -> list[Facts]:
    """Return the facts of every certificate in the PEM file ``path``, in the file's order.

    Raises ``CertificateError`` when the file cannot be read or contains no certificate.
    """
    try:
        certificates = x509.load_pem_x509_certificates(read_regular(path))
        # The key next to a file belongs to its first certificate; the others are issuers.
        first, *others = certificates
        key_file = _key_beside(path)
        state = _key_state(first, key_file)
        if state is KeyState.MISMATCH and KeyState.MATCHES in {_key_state(o, key_file) for o in others}:
            state = KeyState.OF_ANOTHER
        issuers = (_facts(path, other, None, KeyState.MISSING) for other in others)
        return [_facts(path, first, key_file, state), *issuers]
    except OSError as error:
        raise CertificateError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise CertificateError(f"{path} contains no PEM certificate: {error}") from error


def _facts(path: Path, certificate: x509.Certificate, key_file: Path | None, key: KeyState) -> Facts:
    sans = _extension(certificate, x509.SubjectAlternativeName)
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    constraints = _extension(certificate, x509.BasicConstraints)
    return Facts(
        file=path,
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        dns_names=tuple(sans.get_values_for_type(x509.DNSName)) if sans else (),
        ip_addresses=tuple(map(str, sans.get_values_for_type(x509.IPAddress))) if sans else (),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        usages=tuple(_USAGE_NAMES.get(oid, oid.dotted_string) for oid in usages or ()),
        key_type=_key_type(certificate),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        is_ca=constraints is not None and constraints.ca,
        key=key,
        key_file=key_file,
    )


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _key_type(certificate: x509.Certificate) -> str:
    try:
        public_key = certificate.public_key()
    except UnsupportedAlgorithm:
        return "unknown"
    match public_key:
        case ec.EllipticCurvePublicKey() as key:
            return f"EC {key.curve.name}"
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case key:
            return type(key).__name__.removesuffix("PublicKey")


def _key_beside(path: Path) -> Path | None:
    """Find the private key under the file names that mtunnel, QEMU and libvirt use."""
    stem = path.stem.removesuffix("cert").removesuffix("-")
    candidates = (
        path.with_suffix(".key"),
        path.with_name(f"{stem}-key.pem"),  # QEMU: server-cert.pem, server-key.pem
        path.with_name(f"{stem}key.pem"),
        path.parent / "private" / f"{stem}key.pem",  # libvirt: servercert.pem, private/serverkey.pem
    )
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _key_state(certificate: x509.Certificate, key_file: Path | None) -> KeyState:
    if key_file is None:
        return KeyState.MISSING
    try:
        key = serialization.load_pem_private_key(read_regular(key_file), password=None)
        belongs = key.public_key() == certificate.public_key()
    except TypeError:  # raised by cryptography when a passphrase is needed
        return KeyState.ENCRYPTED
    except (OSError, ValueError, UnsupportedAlgorithm):
        return KeyState.UNREADABLE
    return KeyState.MATCHES if belongs else KeyState.MISMATCH

"""Reads certificates, keys, CAs and CRLs from their files, with a one-line error for every fault.

OpenSSL reports most faults of a file as "PEM lib", and prompts for a passphrase on the terminal. So each file
is first checked with Python's ``ssl``, which reports more detail; it is used for nothing else. Faults that
only a verification finds are reported by ``rejections``.
"""

from __future__ import annotations

import codecs
import os
import re
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tunnel.errors import CertificateError
from tunnel.files import read_regular

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"  # PKCS #8, and the older EC and RSA forms
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_CRL = b"-----BEGIN X509 CRL-----"
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CRL_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

# libvirt and QEMU use one pair per role: server certificate -> client certificate, client key.
# Sources: libvirt kbase/tlscerts, QEMU system/tls.
_CLIENT_SIBLINGS = {
    "servercert.pem": ("clientcert.pem", "clientkey.pem"),
    "server-cert.pem": ("client-cert.pem", "client-key.pem"),
}

_MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
_TOO_WEAK = {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of one host. ``crl`` is optional: without it no certificate counts as revoked."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None

    def client_sibling(self) -> Path | None:
        """Return the path of libvirt's or QEMU's client certificate, if ``cert`` has their server's name."""
        names = _CLIENT_SIBLINGS.get(self.cert.name)
        return self.cert.with_name(names[0]) if names else None

    def dialing(self) -> tuple[Path, Path]:
        """Return the certificate and key for dialing: the layout's client pair if it exists."""
        sibling = self.client_sibling()
        # os.access, because Path.exists raises when the directory is not searchable.
        if sibling is None or not os.access(sibling, os.F_OK):
            return self.cert, self.key
        return sibling, self.key.with_name(_CLIENT_SIBLINGS[self.cert.name][1])


def read_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the authorities in ``path``. Raises ``CertificateError``."""
    load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
    return _parsed(path, "CA file", x509.load_pem_x509_certificates)


def read_crls(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """Return the CRLs in ``path``. Raises ``CertificateError``."""
    load_crl(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
    return _parsed(path, "CRL", _load_crls)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its intermediates, and its private key; ``file`` is the certificate's."""

    file: Path
    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes


def read_pair(cert: Path, key: Path) -> KeyPair:
    """Return a certificate with its intermediates and its key. Raises ``CertificateError``."""
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
    chain = _parsed(cert, "certificate", x509.load_pem_x509_certificates)
    (secret,) = _parsed(key, "private key", lambda content: [load_pem_private_key(content, password=None)])
    return KeyPair(cert, chain, secret)


def _load_crls(content: bytes) -> list[x509.CertificateRevocationList]:
    return [x509.load_pem_x509_crl(block) for block in _CRL_BLOCK.findall(content)]


_Parsed = TypeVar("_Parsed")


def _parsed(path: Path, what: str, parse: Callable[[bytes], list[_Parsed]]) -> tuple[_Parsed, ...]:
    """Parse a file that OpenSSL has read without an error."""
    try:
        return tuple(parse(read_regular(path)))
    except OSError as error:
        raise CertificateError(f"cannot read the {what} {path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"the {what} {path} cannot be decoded: {error}") from error


def load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load a certificate (leaf first, then any intermediates) and its key, or raise ``CertificateError``."""
    _require_pem(cert, "certificate", _CERTIFICATE)
    _require_pem(key, "private key", _KEY)
    _require_secret(key)
    _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, "certificate")
    try:
        context.load_cert_chain(cert, key, password=partial(_refuse_passphrase, key))
    except ssl.SSLError as error:
        raise CertificateError(_pair_fault(cert, key, error.reason)) from error


def load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    """Trust the CA certificates in ``ca``; raise ``CertificateError`` if it holds anything else.

    Several CAs are allowed, so that a CA can be replaced without an interruption.
    """
    _require_pem(ca, "CA file", _CERTIFICATE)
    _load_certificates(context, ca, "CA file")
    stats = context.cert_store_stats()
    if not stats["x509_ca"]:
        what = "basicConstraints CA:TRUE, and keyCertSign if it has a keyUsage"
        raise CertificateError(f"the CA file {ca} holds no CA certificate ({what})")
    if stats["x509"] != stats["x509_ca"]:
        raise CertificateError(
            f"the CA file {ca} also holds certificates that are not CA certificates: remove them"
        )
    if stats["crl"]:
        raise CertificateError(f"the CA file {ca} also holds a CRL: move it to a file of its own")
    ends = [_cert_time(str(authority["notAfter"])) for authority in context.get_ca_certs()]
    if max(ends) < (moment := datetime.now(UTC)):
        dates = f"{max(ends):%Y-%m-%d %H:%M} UTC (it is {moment:%Y-%m-%d %H:%M} UTC here)"
        raise CertificateError(f"the CA in {ca} expired on {dates}: make a new CA")


def load_crl(context: ssl.SSLContext, crl: Path) -> None:
    """Load the CRLs in ``crl``; raise ``CertificateError`` if it holds certificates as well."""
    _require_pem(crl, "CRL", _CRL)
    trusted = context.cert_store_stats()["x509"]
    _load_certificates(context, crl, "CRL")
    if context.cert_store_stats()["x509"] != trusted:
        # They would become trusted authorities.
        raise CertificateError(f"the CRL file {crl} also holds certificates: remove them")


def _cert_time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _require_pem(path: Path, what: str, marker: bytes) -> None:
    try:
        content = read_regular(path)
    except OSError as error:
        raise CertificateError(f"cannot read the {what} {path}: {error.strerror}") from error
    if content.startswith(_BYTE_ORDER_MARKS):
        fault = "begins with a byte order mark, which OpenSSL does not read: save it as plain ASCII"
        raise CertificateError(f"the {what} {path} {fault}")
    if marker not in content:
        label = marker.decode().strip("-").removeprefix("BEGIN ")
        raise CertificateError(f"the {what} {path} holds no PEM block {label}")


def _require_secret(key: Path) -> None:
    """Refuse a key that every local user can read: its holder can impersonate this host and get guest memory.

    Group access is the owner's choice (QEMU's keys are often 0640 root:qemu), and so is an open mode inside a
    closed directory (libvirt's ``private/``).
    """
    path = key.resolve()
    open_way = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    if open_way and path.stat().st_mode & stat.S_IROTH:
        raise CertificateError(f"the private key {key} can be read by every local user: chmod 600 it")


def _load_certificates(context: ssl.SSLContext, path: Path, what: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise CertificateError(f"the {what} {path} is damaged: its PEM cannot be decoded") from error


def _refuse_passphrase(key: Path) -> NoReturn:
    raise CertificateError(
        f"the private key {key} is encrypted, and the daemon cannot prompt for a passphrase: "
        f"store it decrypted, with mode 0600"
    )


def _pair_fault(cert: Path, key: Path, reason: str | None) -> str:
    if reason in _MISMATCHES:
        return _foreign_key(cert, key)
    if reason in _TOO_WEAK:
        return f"the certificate {cert} is too weak for this host's OpenSSL ({reason})"
    content = read_regular(key)
    if _OPENSSH in content:
        return (
            f"the private key {key} is in OpenSSH format: convert it (ssh-keygen -p -N '' -m PKCS8 -f {key})"
        )
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        kind = type(load_pem_private_key(content, password=None)).__name__.removesuffix("PrivateKey")
        return f"the private key {key} is of a type that certificates do not use ({kind})"
    return f"the private key {key} is damaged: its PEM cannot be decoded"


def _foreign_key(cert: Path, key: Path) -> str:
    """Return to which certificate ``key`` belongs, if not to the first: files are often joined in reverse."""
    ours = load_pem_private_key(read_regular(key), password=None).public_key()
    for number, certificate in enumerate(x509.load_pem_x509_certificates(read_regular(cert)), start=1):
        with suppress(UnsupportedAlgorithm):
            if number > 1 and certificate.public_key() == ours:
                whose = f"certificate {number} in {cert}, {certificate.subject.rfc4514_string() or 'unnamed'}"
                return f"the private key {key} belongs to {whose}: put that first, followed by its issuers"
    several = " (the first of several)" if read_regular(key).count(b"PRIVATE KEY-----") > 2 else ""
    return f"the private key {key}{several} does not match the certificate {cert}"

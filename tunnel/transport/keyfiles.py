"""Certificates, keys, CAs and CRLs: from files into an ``ssl.SSLContext``, one clear line for every fault.

OpenSSL reports most faults of a file as "PEM lib", and asks for a passphrase on the terminal. So each file is
looked at before OpenSSL gets it. What only a verification can find out, ``verdict`` puts into words.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from tunnel.errors import CertificateError
from tunnel.transport.openssl import VerificationError

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"  # PKCS #8, and the older EC and RSA forms
_CRL = b"-----BEGIN X509 CRL-----"
_CRL_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

# libvirt and QEMU keep one pair for each role: server certificate -> client certificate, client key.
# Sources: libvirt kbase/tlscerts, QEMU system/tls.
_CLIENT_SIBLINGS = {
    "servercert.pem": ("clientcert.pem", "clientkey.pem"),
    "server-cert.pem": ("client-cert.pem", "client-key.pem"),
}

_MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
_TOO_WEAK = {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}


class _Verify(IntEnum):
    """OpenSSL's X509_V_ERR codes that have words of our own (openssl/x509_vfy.h)."""

    UNABLE_TO_GET_CRL = 3
    CERT_SIGNATURE_FAILURE = 7
    CERT_NOT_YET_VALID = 9
    CERT_HAS_EXPIRED = 10
    CRL_NOT_YET_VALID = 11
    CRL_HAS_EXPIRED = 12
    DEPTH_ZERO_SELF_SIGNED_CERT = 18
    SELF_SIGNED_CERT_IN_CHAIN = 19
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20
    UNABLE_TO_VERIFY_LEAF_SIGNATURE = 21
    CERT_REVOKED = 23
    INVALID_PURPOSE = 26


_NOT_OURS = "is not signed by an authority in {ca}"

_VERDICTS: dict[int, str] = {
    _Verify.UNABLE_TO_GET_CRL: "cannot be judged: {crl} is not from the authority that signed it",
    _Verify.CERT_SIGNATURE_FAILURE: _NOT_OURS,
    _Verify.CERT_NOT_YET_VALID: "is not valid yet: check the clocks",
    _Verify.CERT_HAS_EXPIRED: "has expired: issue a new one",
    _Verify.CRL_NOT_YET_VALID: "cannot be judged: {crl} is not valid yet: check this host's clock",
    _Verify.CRL_HAS_EXPIRED: "cannot be judged: {crl} has expired: install the authority's current one",
    _Verify.DEPTH_ZERO_SELF_SIGNED_CERT: _NOT_OURS,
    _Verify.SELF_SIGNED_CERT_IN_CHAIN: _NOT_OURS,
    _Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY: _NOT_OURS,
    _Verify.UNABLE_TO_VERIFY_LEAF_SIGNATURE: _NOT_OURS,
    _Verify.CERT_REVOKED: "is revoked by {crl}",
    _Verify.INVALID_PURPOSE: "is not fit for {role}: issue one with the extended key usage {usage}",
}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of one host. ``crl`` is optional: without it no certificate counts as revoked."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None

    def client_sibling(self) -> Path | None:
        """Return where libvirt or QEMU has the client certificate, if ``cert`` is named as their server's."""
        names = _CLIENT_SIBLINGS.get(self.cert.name)
        return self.cert.with_name(names[0]) if names else None

    def dialing(self) -> tuple[Path, Path]:
        """Return the certificate and key to dial with: the layout's client pair where there is one."""
        sibling = self.client_sibling()
        # os.access, because Path.exists raises where the directory may not be entered.
        if sibling is None or not os.access(sibling, os.F_OK):
            return self.cert, self.key
        return sibling, self.key.with_name(_CLIENT_SIBLINGS[self.cert.name][1])


def look_at(files: TlsFiles, cert: Path, key: Path) -> None:
    """Find what is wrong with the files of a context that proves itself with ``cert`` and ``key``.

    Raises ``CertificateError``, one clear line for every fault. Python's ``ssl`` does the looking, since it
    tells more about files; nothing is ever sent with it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_authorities(context, files.ca)
    if files.crl is not None:
        load_crl(context, files.crl)
    load_pair(context, cert, key)


def load_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """The CRLs in a file that ``look_at`` found no fault with."""
    blocks = _CRL_BLOCK.findall(path.read_bytes())
    return [x509.load_pem_x509_crl(block) for block in blocks]


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
    """Trust the CA certificates in ``ca``, and nothing else that may be in it, or raise ``CertificateError``.

    Several CAs are allowed, so that one can follow another without a day on which nobody can migrate.
    """
    _require_pem(ca, "CA file", _CERTIFICATE)
    _load_certificates(context, ca, "CA file")
    stats = context.cert_store_stats()
    if not stats["x509_ca"]:
        raise CertificateError(f"the CA file {ca} holds no CA certificate (basicConstraints CA:TRUE)")
    if stats["x509"] != stats["x509_ca"]:
        raise CertificateError(f"the CA file {ca} also holds certificates of no authority: remove them")
    if stats["crl"]:
        raise CertificateError(f"the CA file {ca} also holds a CRL: move it to a file of its own")
    ends = [_cert_time(str(authority["notAfter"])) for authority in context.get_ca_certs()]
    if max(ends) < datetime.now(UTC):
        raise CertificateError(f"the CA in {ca} expired on {max(ends):%Y-%m-%d %H:%M} UTC: make a new CA")


def load_crl(context: ssl.SSLContext, crl: Path) -> None:
    """Refuse peers whose certificate ``crl`` revokes, or raise ``CertificateError``."""
    _require_pem(crl, "CRL", _CRL)
    trusted = context.cert_store_stats()["x509"]
    _load_certificates(context, crl, "CRL")
    if context.cert_store_stats()["x509"] != trusted:
        # They would have become trusted authorities.
        raise CertificateError(f"the CRL {crl} holds certificates as well: remove them")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def verdict(error: VerificationError, files: TlsFiles, *, dialing: bool) -> str:
    """Say what a verification found wrong, to follow the name of a certificate: "has expired: …".

    ``dialing`` says that the certificate is that of the dialing side.
    """
    words = _VERDICTS.get(error.code)
    if words is None:
        return f"is not acceptable: {error}"
    role, usage = ("dialing", "clientAuth") if dialing else ("accepting", "serverAuth")
    return words.format(ca=files.ca, crl=files.crl, role=role, usage=usage)


def _cert_time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _require_pem(path: Path, what: str, marker: bytes) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read the {what} {path}: {error.strerror}") from error
    if marker not in content:
        label = marker.decode().strip("-").removeprefix("BEGIN ")
        raise CertificateError(f"the {what} {path} holds no PEM block {label}")


def _require_secret(key: Path) -> None:
    """Refuse a key that every local user can read: with it anyone is this host, and may read guests' memory.

    Access for a group is the owner's choice (QEMU's keys are often 0640 root:qemu), and so is an open mode
    inside a closed directory (libvirt's ``private/``).
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
        f"the private key {key} is encrypted, and a daemon has nobody to ask for its passphrase: "
        f"store it decrypted, with mode 0600"
    )


def _pair_fault(cert: Path, key: Path, reason: str | None) -> str:
    if reason in _MISMATCHES:
        return _foreign_key(cert, key)
    if reason in _TOO_WEAK:
        return f"the certificate {cert} is too weak for this host's OpenSSL ({reason})"
    return f"the private key {key} is damaged: its PEM cannot be decoded"


def _foreign_key(cert: Path, key: Path) -> str:
    """Say whose ``key`` is, if not the first certificate's of ``cert``: files are often joined in reverse."""
    ours = serialization.load_pem_private_key(key.read_bytes(), password=None).public_key()
    for number, certificate in enumerate(x509.load_pem_x509_certificates(cert.read_bytes()), start=1):
        with suppress(UnsupportedAlgorithm):
            if number > 1 and certificate.public_key() == ours:
                whose = f"certificate {number} in {cert}, {certificate.subject.rfc4514_string() or 'unnamed'}"
                return f"the private key {key} belongs to {whose}: put that first, its issuers behind it"
    return f"the private key {key} does not belong to the certificate {cert}"

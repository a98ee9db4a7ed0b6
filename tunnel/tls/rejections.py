"""Error texts for certificate verification failures: which certificate, what is wrong, and what to do.

OpenSSL returns a code, a depth in the chain (0: the host's own certificate) and the certificate there. The
text is for the log of this host; it may also be sent to a peer, so it names files by their paths.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tunnel.tls.openssl import CertificateRejectedError
from tunnel.tls.tls_files import TlsFiles
from tunnel.wire.text import quoted

MOST_NAME = 256
"""Maximum characters shown of a subject or an issuer."""

Clock = Callable[[], datetime]
"""Returns the current time, as an aware UTC time."""


def now() -> datetime:
    """Return the system time: the default ``Clock``."""
    return datetime.now(UTC)


class Verify(IntEnum):
    """OpenSSL's X509_V_ERR codes that have texts of our own (openssl/x509_vfy.h)."""

    UNABLE_TO_GET_ISSUER_CERT = 2
    UNABLE_TO_GET_CRL = 3
    CERT_SIGNATURE_FAILURE = 7
    CRL_SIGNATURE_FAILURE = 8
    CERT_NOT_YET_VALID = 9
    CERT_HAS_EXPIRED = 10
    CRL_NOT_YET_VALID = 11
    CRL_HAS_EXPIRED = 12
    DEPTH_ZERO_SELF_SIGNED_CERT = 18
    SELF_SIGNED_CERT_IN_CHAIN = 19
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20
    UNABLE_TO_VERIFY_LEAF_SIGNATURE = 21
    CERT_REVOKED = 23
    PATH_LENGTH_EXCEEDED = 25
    INVALID_PURPOSE = 26
    UNABLE_TO_GET_CRL_ISSUER = 33
    KEYUSAGE_NO_CRL_SIGN = 35
    UNHANDLED_CRITICAL_CRL_EXTENSION = 36
    DIFFERENT_CRL_SCOPE = 44
    PERMITTED_VIOLATION = 47
    EXCLUDED_VIOLATION = 48
    CRL_PATH_VALIDATION_ERROR = 54
    INVALID_CA = 79


_NOT_OURS = "is not signed by an authority in {ca}"
_ISSUER_MISSING = f"{_NOT_OURS}: its issuer {{issuer}} is neither in that file nor in the chain"

_CRL = "the CRL of {issuer} in {crl}"
_UNJUDGED = f"cannot be verified: {_CRL}"

_WORDS: dict[int, str] = {
    Verify.UNABLE_TO_GET_ISSUER_CERT: _ISSUER_MISSING,
    Verify.UNABLE_TO_GET_CRL: "cannot be verified: {crl} has no CRL of its issuer {issuer}",
    Verify.CERT_SIGNATURE_FAILURE: f"{_NOT_OURS}: the {{issuer}} in that file has another key",
    Verify.CRL_SIGNATURE_FAILURE: f"{_UNJUDGED} has an invalid signature",
    Verify.CERT_NOT_YET_VALID: "is not valid yet: check the clocks (valid from {begin}, it is {now} here)",
    Verify.CERT_HAS_EXPIRED: "has expired: issue a new one (valid until {end}, it is {now} here)",
    Verify.CRL_NOT_YET_VALID: (
        f"{_UNJUDGED} is not valid yet: check the clocks (this update {{this_update}}, it is {{now}} here)"
    ),
    Verify.CRL_HAS_EXPIRED: (
        f"{_UNJUDGED} has expired: install the current one (next update {{next_update}}, it is {{now}} here)"
    ),
    Verify.DEPTH_ZERO_SELF_SIGNED_CERT: f"{_NOT_OURS}: it is self-signed",
    Verify.SELF_SIGNED_CERT_IN_CHAIN: f"{_NOT_OURS}: its root {{subject}} is not in that file",
    Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY: _ISSUER_MISSING,
    Verify.UNABLE_TO_VERIFY_LEAF_SIGNATURE: _ISSUER_MISSING,
    Verify.CERT_REVOKED: f"is revoked by {_CRL} (this update {{this_update}})",
    Verify.PATH_LENGTH_EXCEEDED: "must not sign other authorities: path length constraint exceeded",
    Verify.INVALID_PURPOSE: "is not fit for {role}: issue one with the {usage}",
    Verify.UNABLE_TO_GET_CRL_ISSUER: f"{_UNJUDGED} has an unknown issuer",
    Verify.KEYUSAGE_NO_CRL_SIGN: "cannot be verified: {issuer} must not sign the CRL in {crl} (key usage)",
    Verify.UNHANDLED_CRITICAL_CRL_EXTENSION: f"{_UNJUDGED} has an unsupported critical extension",
    Verify.DIFFERENT_CRL_SCOPE: f"{_UNJUDGED} does not cover such certificates",
    Verify.PERMITTED_VIOLATION: "has a name that its authority must not certify (name constraints)",
    Verify.EXCLUDED_VIOLATION: "has a name that its authority must not certify (name constraints)",
    Verify.CRL_PATH_VALIDATION_ERROR: f"{_UNJUDGED} has an untrusted issuer",
    Verify.INVALID_CA: "is not a CA certificate, but has signed another certificate",
}


def explain_rejection(
    fault: CertificateRejectedError, files: TlsFiles, whose: str, *, dialing: bool, clock: Clock = now
) -> str:
    """Return what is wrong with which certificate: "the peer's certificate has expired: …".

    ``whose`` is a host in the genitive, or empty for this host's own files; ``dialing``: whether the chain is
    that of the dialing side.
    """
    words = _WORDS.get(fault.code, f"is not acceptable: {fault}")
    role = "dialing" if dialing else "accepting"
    usage = _missing_usage(fault.certificate, fault.depth, dialing=dialing)
    filled = {"ca": files.ca, "crl": files.crl, "role": role, "usage": usage, "now": at(clock())}
    filled |= dict.fromkeys(("issuer", "subject", "begin", "end"), "(unreadable)")
    if fault.certificate is not None:
        filled["issuer"] = name_of(fault.certificate.issuer)
        filled["subject"] = name_of(fault.certificate.subject)
        filled["begin"] = at(fault.certificate.not_valid_before_utc)
        filled["end"] = at(fault.certificate.not_valid_after_utc)
    begin, end = (None, None) if fault.crl is None else (fault.crl.last_update_utc, fault.crl.next_update_utc)
    filled["this_update"] = at(begin) if begin else "unknown"
    filled["next_update"] = at(end) if end else "unknown"
    return f"{_subject(fault, files, whose, dialing=dialing)} {words.format(**filled)}"


def _subject(fault: CertificateRejectedError, files: TlsFiles, whose: str, *, dialing: bool) -> str:
    cert = files.dialing()[0] if dialing else files.cert
    of_the_whole_chain = fault.code == Verify.SELF_SIGNED_CERT_IN_CHAIN
    if fault.depth == 0 or of_the_whole_chain or fault.certificate is None:
        return f"{whose} certificate" if whose else f"the certificate {cert}"
    name = name_of(fault.certificate.subject)
    if fault.trusted:
        of = f"{whose} certificate" if whose else f"the certificate {cert}"
        return f"the authority {name} of {of}"
    return f"{whose} intermediate certificate {name}" if whose else f"the intermediate {name} in {cert}"


def _missing_usage(certificate: x509.Certificate | None, depth: int, *, dialing: bool) -> str:
    """Return the usage that this role requires and the certificate lacks (RFC 5280, 4.2.1.3, 4.2.1.12)."""
    wanted = ExtendedKeyUsageOID.CLIENT_AUTH if dialing else ExtendedKeyUsageOID.SERVER_AUTH
    extended = f"extended key usage {'clientAuth' if dialing else 'serverAuth'}"
    if certificate is None or depth:
        return extended
    with suppress(x509.ExtensionNotFound, ValueError):
        if wanted not in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
            return extended
    with suppress(x509.ExtensionNotFound, ValueError):
        if not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            return "key usage digitalSignature"
    return extended


def name_of(name: x509.Name) -> str:
    """Return a subject or an issuer as text; it may come from an unauthenticated peer."""
    return quoted(name.rfc4514_string(), MOST_NAME) or "(no name)"


def at(moment: datetime) -> str:
    """Return a time as text."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"

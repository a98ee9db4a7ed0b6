"""TLS contexts for lanes: version 1.3 only, mutual authentication, identity by DNS name.

A context verifies that a certificate is valid; ``identify`` maps it to a peer. Both are needed: every host of
the network has a valid certificate.

Ciphers are OpenSSL's defaults; groups are limited. Sessions are never resumed, so each lane is authenticated
afresh, and there is no early data. OpenSSL's session tickets cannot be switched off from here; they are
unusable.

::

    contexts = load(TlsFiles(ca, cert, key, crl))
    tls = TlsConnection(contexts.client, dialing=True)
    ... handshake ...
    peer = identify(tls, {"hostb"})
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, cast

from cryptography import x509
from OpenSSL import SSL, crypto

from tunnel.errors import CertificateError, IdentityError, LaneError
from tunnel.names import folded
from tunnel.tls.expiry import Expiry
from tunnel.tls.lane_kinds import UNASKED, EncryptionStatus, KernelTlsSupport, LaneKind
from tunnel.tls.openssl import (
    CertificateRejectedError,
    NoProtocolError,
    TlsConnection,
    WantRead,
    enable_keylog,
    explain,
    is_alert,
    limit_groups,
)
from tunnel.tls.rejections import MOST_NAME, explain_rejection
from tunnel.tls.tls_files import KeyPair, TlsFiles, read_pair
from tunnel.tls.trust import Chain, Trust
from tunnel.wire.text import quoted

__all__ = [
    "ALPN",
    "ONE_EACH",
    "TlsContexts",
    "TlsFiles",
    "client_context",
    "foreign",
    "handshake_fault",
    "identify",
    "load",
    "peer_names",
    "server_context",
]

ALPN = "mtunnel/1"

ONE_EACH = "issue one certificate per host, with its own name only"
"""Advice about a certificate with the names of several hosts."""

_NO_TLS = {"wrong version number", "http request", "https proxy request"}  # OpenSSL's reasons for other bytes


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """The TLS contexts of one host for all its lanes, checked when they were loaded.

    ``names`` are the lower-case DNS names common to this host's certificates for accepting and for dialing;
    ``accepted`` and ``dialed`` are their chains, as a peer verifies them when it dials this host, and when
    this host dials it. With ``kernel`` suites, kernel lanes can be made: see ``load``.
    """

    trust: Trust
    pairs: tuple[KeyPair, KeyPair]  # for accepting, for dialing
    server: SSL.Context
    client: SSL.Context
    names: tuple[str, ...]
    accepted: Chain
    dialed: Chain
    kernel: KernelTlsSupport = UNASKED

    @property
    def files(self) -> TlsFiles:
        """The files they were loaded from."""
        return self.trust.files

    @property
    def lane(self) -> LaneKind:
        """The kind of lane that they are for."""
        return LaneKind.KERNEL if self.kernel.suites else LaneKind.USERSPACE

    def lane_facts(self) -> EncryptionStatus:
        """The lane kind as ``check`` and ``status`` report it, without the engine."""
        costs = self.kernel.costs
        return {
            "kind": self.lane.value,
            "reason": self.kernel.reason,
            "cpu_seconds_per_gib": costs.facts() if costs else None,
        }

    def own_chain(self, *, dialing: bool) -> Chain:
        """The chain of this host's certificate for that role."""
        return self.dialed if dialing else self.accepted

    def expiries(self, moment: datetime) -> tuple[Expiry, ...]:
        """The expiry dates of certificates, authorities and CRLs, earliest first."""
        accepting, dialing = self.pairs
        return self.trust.expiries(moment, (self.accepted, accepting.file), (self.dialed, dialing.file))

    def believing(self, trust: Trust) -> TlsContexts:
        """Return contexts with the same certificates and a new ``trust``, which need not trust them."""
        server, client = (_context(trust, pair, self.kernel.suites) for pair in self.pairs)
        return replace(self, trust=trust, server=server, client=client)


def load(files: TlsFiles, kernel: KernelTlsSupport = UNASKED) -> TlsContexts:
    """Build both contexts and test them against each other, in memory.

    That handshake checks chain, dates, revocation, key and usages as peers will, and returns our own verified
    chains. For kernel lanes only suites that the kernel supports are offered and accepted. Raises
    ``CertificateError`` when the files cannot be used.
    """
    trust = Trust.read(files)
    accepting = read_pair(files.cert, files.key)
    dialing = accepting if files.dialing()[0] == files.cert else read_pair(*files.dialing())
    server, client = (_context(trust, pair, kernel.suites) for pair in (accepting, dialing))
    accepted, dialed = _prove(server, client, files)
    names = tuple(name for name in _dns_names(accepted[0]) if name in _dns_names(dialed[0]))
    if not names:
        raise CertificateError(_nameless(files))
    return TlsContexts(trust, (accepting, dialing), server, client, names, accepted, dialed, kernel)


def server_context(files: TlsFiles, kernel: Collection[str] = ()) -> SSL.Context:
    """Make a context for accepting lanes; raises ``CertificateError``. ``kernel``: suites, see ``load``."""
    return _context(Trust.read(files), read_pair(files.cert, files.key), kernel)


def client_context(files: TlsFiles, kernel: Collection[str] = ()) -> SSL.Context:
    """Make a context for dialing lanes; raises ``CertificateError``. ``kernel``: suites, see ``load``."""
    return _context(Trust.read(files), read_pair(*files.dialing()), kernel)


def peer_names(lane: TlsConnection) -> tuple[str, ...]:
    """Return the DNS names in the peer's verified certificate, lower-cased, in certificate order."""
    certificate = lane.peer_certificate
    return () if certificate is None else _dns_names(certificate)


def identify(lane: TlsConnection, expected: Collection[str]) -> str:
    """Return the one name in ``expected`` that is in the peer's certificate, spelled as in ``expected``.

    When dialing, ``expected`` is the one peer that was dialed; when accepting, all configured peers. Names
    match exactly except for case; a wildcard in a certificate matches nothing.

    Raises ``IdentityError`` when the peer does not support this protocol, is none of the expected, or is
    several of them: then its permissions are ambiguous.
    """
    if lane.protocol != ALPN:
        raise foreign(lane.protocol)
    names = peer_names(lane)
    found = [name for name in expected if name.lower() in names]
    if len(found) == 1:
        return found[0]
    proven = quoted(", ".join(names), MOST_NAME) or "no host (no DNS subject alternative name)"
    if found:
        several = f"the peer's certificate names more than one configured peer: {', '.join(found)}"
        raise IdentityError(f"{several}; {ONE_EACH}", found)
    raise IdentityError(f"the peer's certificate names {proven}; expected {' or '.join(sorted(expected))}")


def foreign(protocol: str | None) -> IdentityError:
    """Return the error for a peer that negotiated or offered another protocol by ALPN."""
    return IdentityError(f"the peer does not support {ALPN} (ALPN: {protocol}); is that mtunnel's port?")


def handshake_fault(
    error: SSL.Error | CertificateRejectedError | NoProtocolError, files: TlsFiles, *, dialing: bool
) -> LaneError:
    """Convert the error of a failed handshake: an ``IdentityError`` when our side refused the peer.

    ``dialing``: whether we were the dialing side. An accepting peer refuses our certificate only after our
    handshake has completed: then the error comes with the first read.
    """
    if isinstance(error, CertificateRejectedError):
        return IdentityError(explain_rejection(error, files, "the peer's", dialing=not dialing))
    if isinstance(error, NoProtocolError):
        return foreign(error.offered)
    reason = explain(error)
    if reason in _NO_TLS:
        return LaneError("the peer does not use TLS")
    if is_alert(reason):
        return LaneError(f"the peer refused the TLS handshake: {reason}; see its log")
    return LaneError(f"the TLS handshake failed: {reason}")


def _context(trust: Trust, pair: KeyPair, kernel: Collection[str]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, partial(_judge, trust))
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_protos([ALPN.encode()])
    context.set_alpn_select_callback(_choose)
    limit_groups(context)
    enable_keylog(context)
    if kernel:
        context.set_tls13_ciphersuites(":".join(kernel).encode())
    store = context.get_cert_store()
    assert store is not None  # noqa: S101  every context has one
    trust.fill(store)
    _prove_with(context, pair)
    return context


def _prove_with(context: SSL.Context, pair: KeyPair) -> None:
    own, *issuers = pair.chain
    try:
        context.use_certificate(own)
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(cast("Any", pair.key))
    except (SSL.Error, TypeError) as error:  # TypeError: a key type that pyOpenSSL does not support
        reason = explain(error) if isinstance(error, SSL.Error) else str(error)
        raise CertificateError(f"the certificate {pair.file} cannot be used: {reason}") from error


def _judge(trust: Trust, _: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
    """Verify callback: accept what ``trust`` tolerates; raise OpenSSL's other errors with the reason."""
    if ok:
        return True
    found = _readable(certificate)
    if found is not None and trust.tolerates(code, depth, found):
        return True
    raise trust.fault(code, depth, found)


def _readable(certificate: crypto.X509) -> x509.Certificate | None:
    """Convert a refused certificate; return None for one that only OpenSSL can parse."""
    try:
        found = certificate.to_cryptography()
        _ = found.issuer, found.subject, found.not_valid_before_utc, found.not_valid_after_utc
    except (ValueError, x509.InvalidVersion):
        return None
    return found


def _choose(_: SSL.Connection, offered: list[bytes]) -> bytes:
    if ALPN.encode() not in offered:
        raise NoProtocolError(offered)  # OpenSSL then sends no_application_protocol
    return ALPN.encode()


def _prove(server: SSL.Context, client: SSL.Context, files: TlsFiles) -> tuple[Chain, Chain]:
    """Do a handshake between our two contexts in memory; return the verified chains of both."""
    dialer = TlsConnection(client, dialing=True)
    acceptor = TlsConnection(server, dialing=False)
    try:
        for end, other in ((dialer, acceptor), (acceptor, dialer)) * 2:  # TLS 1.3's flights
            with suppress(WantRead):
                end.handshake()
            if flight := end.flight():
                other.feed(flight)
    except CertificateRejectedError as error:
        raise _unfit(error, files, dialing=end is acceptor) from error
    except SSL.Error as error:
        why = f"{explain(error)}; supported keys are EC P-256 and P-384, Ed25519 and RSA"
        raise CertificateError(f"the certificate {files.cert} cannot be used for TLS 1.3: {why}") from error
    accepted, dialed = dialer.verified_chain, acceptor.verified_chain
    if not accepted or not dialed:
        raise CertificateError(
            f"the certificate {files.cert} cannot be used for TLS 1.3: incomplete handshake"
        )
    return accepted, dialed


def _unfit(error: CertificateRejectedError, files: TlsFiles, *, dialing: bool) -> CertificateError:
    """Return the error for one of our own certificates, which the other end of the test refused."""
    fault = explain_rejection(error, files, "", dialing=dialing)
    sibling, cert = files.client_sibling(), files.dialing()[0]
    if dialing and error.depth == 0 and sibling not in {None, cert}:
        fault = f"{fault}, or put one at {sibling}"
    return CertificateError(fault)


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):  # none, or undecodable
        return ()
    # Only ASCII, because some other letters become ASCII in lower case, and only printable, for the log.
    return tuple(folded(name) for name in names if name.isascii() and name.isprintable())


def _nameless(files: TlsFiles) -> str:
    cert, dialing = files.cert, files.dialing()[0]
    if cert == dialing:
        return f"the certificate {cert} has no DNS subject alternative name (the CN is not used)"
    return f"the certificates {cert} and {dialing} share no DNS subject alternative name"

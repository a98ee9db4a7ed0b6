"""TLS for lanes: version 1.3 only, both certificates required, identity by DNS name.

A context says which certificates are genuine; ``identify`` says whose certificate it is. Both are needed:
every host of the network has a genuine certificate.

OpenSSL's own defaults stand for ciphers; groups are limited. No session is ever taken up again, so each lane
proves its identity afresh, and there is no early data. OpenSSL's session tickets cannot be switched off from
here; nobody can use them.

::

    contexts = load(TlsFiles(ca, cert, key, crl))
    tls = TlsConnection(contexts.client, dialing=True)
    ... handshake ...
    peer = identify(tls, {"hostb"})
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto

from tunnel.errors import CertificateError, IdentityError, LaneError
from tunnel.names import folded
from tunnel.transport.keyfiles import TlsFiles, load_crls, look_at, verdict
from tunnel.transport.ktls import UNASKED, Capability
from tunnel.transport.lane import LaneKind
from tunnel.transport.openssl import (
    NoProtocolError,
    TlsConnection,
    VerificationError,
    WantRead,
    explain,
    is_alert,
    limit_groups,
    log_secrets,
    whole_writes,
)

__all__ = [
    "ALPN",
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

_NO_TLS = {"wrong version number", "http request", "https proxy request"}  # what OpenSSL makes of other bytes


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """What one host needs for all its lanes, proven to work at the time of loading.

    ``names`` are the lower-case DNS names that this host's certificates prove, both when it dials and when it
    is dialed; ``not_after`` is when the first of them expires (UTC). With ``kernel`` suites, kernel
    lanes can be made: see ``load``.
    """

    files: TlsFiles
    server: SSL.Context
    client: SSL.Context
    names: tuple[str, ...]
    not_after: datetime
    kernel: Capability = UNASKED

    @property
    def lane(self) -> LaneKind:
        """The kind of lanes that these are for."""
        return LaneKind.KERNEL if self.kernel.suites else LaneKind.USERSPACE


def load(files: TlsFiles, kernel: Capability = UNASKED) -> TlsContexts:
    """Build both contexts and prove them against each other, in memory.

    That handshake shows chain, dates, revocation, key and usages as the peers will judge them, and yields
    the facts of our own certificates. For kernel lanes no other suites are agreed on than those that the
    kernel knows, and connections keep their secrets. Raises ``CertificateError`` for whatever is wrong with
    the files.
    """
    server, client = server_context(files, kernel.suites), client_context(files, kernel.suites)
    accepting, dialing = _prove(server, client, files)
    names = tuple(name for name in _dns_names(accepting) if name in _dns_names(dialing))
    if not names:
        raise CertificateError(_nameless(files))
    return TlsContexts(
        files,
        server,
        client,
        names,
        min(accepting.not_valid_after_utc, dialing.not_valid_after_utc),
        kernel,
    )


def server_context(files: TlsFiles, kernel: Collection[str] = ()) -> SSL.Context:
    """Make a context for accepting lanes; raises ``CertificateError``. ``kernel``: suites, see ``load``."""
    return _context(files, files.cert, files.key, kernel)


def client_context(files: TlsFiles, kernel: Collection[str] = ()) -> SSL.Context:
    """Make a context for dialing lanes; raises ``CertificateError``. ``kernel``: suites, see ``load``."""
    return _context(files, *files.dialing(), kernel)


def peer_names(lane: TlsConnection) -> tuple[str, ...]:
    """Return the DNS names in the peer's verified certificate, in lower case, in its order."""
    certificate = lane.peer_certificate
    return () if certificate is None else _dns_names(certificate)


def identify(lane: TlsConnection, expected: Collection[str]) -> str:
    """Return the one name in ``expected`` that the peer's certificate proves, spelled as in ``expected``.

    When dialing, ``expected`` is the one peer that was dialed; when accepting, all configured peers. Names
    match exactly but for case; a wildcard in a certificate matches nothing.

    Raises ``IdentityError`` when the peer does not speak this protocol, is none of the expected, or is
    several of them: then it is not clear whose rights it has.
    """
    if lane.protocol != ALPN:
        raise foreign(lane.protocol)
    names = peer_names(lane)
    found = [name for name in expected if name.lower() in names]
    if len(found) == 1:
        return found[0]
    proven = ", ".join(names) or "nobody (it has no DNS subject alternative name)"
    if found:
        raise IdentityError(f"the peer's certificate names more than one configured peer: {', '.join(found)}")
    raise IdentityError(f"the peer's certificate names {proven}; expected {' or '.join(sorted(expected))}")


def foreign(protocol: str | None) -> IdentityError:
    """A peer that speaks something else, by what ALPN says."""
    return IdentityError(f"the peer does not speak {ALPN} (ALPN: {protocol}): is that port mtunnel's?")


def handshake_fault(
    error: SSL.Error | VerificationError | NoProtocolError, files: TlsFiles, *, dialing: bool
) -> LaneError:
    """Put a failed handshake with a peer into words: an ``IdentityError`` when it was us who refused.

    ``dialing`` says which side of the handshake we were. A peer refuses the dialing side's certificate only
    after that side's handshake is over: then the error comes with the first read.
    """
    if isinstance(error, VerificationError):
        return IdentityError(f"the peer's certificate {verdict(error, files, dialing=not dialing)}")
    if isinstance(error, NoProtocolError):
        return foreign(error.offered)
    reason = explain(error)
    if reason in _NO_TLS:
        return LaneError("the peer does not speak TLS")
    if is_alert(reason):
        return LaneError(f"the peer refused the TLS handshake: {reason}; its log says more")
    return LaneError(f"the TLS handshake failed: {reason}")


def _context(files: TlsFiles, cert: Path, key: Path, kernel: Collection[str]) -> SSL.Context:
    look_at(files, cert, key)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _judge)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_protos([ALPN.encode()])
    context.set_alpn_select_callback(_choose)
    whole_writes(context)
    limit_groups(context)
    log_secrets(context)
    if kernel:
        context.set_tls13_ciphersuites(":".join(kernel).encode())
    try:
        context.load_verify_locations(str(files.ca))
        if files.crl is not None:
            store = context.get_cert_store()
            assert store is not None  # noqa: S101  every context has one
            for crl in load_crls(files.crl):
                store.add_crl(crl)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
        context.use_certificate_chain_file(str(cert))
        context.use_privatekey_file(str(key))
    except SSL.Error as error:
        raise CertificateError(f"the certificate {cert} cannot be used: {explain(error)}") from error
    return context


def _judge(_: SSL.Connection, __: crypto.X509, code: int, ___: int, ok: int) -> bool:
    """OpenSSL's judgement stands; this only keeps its reason."""
    if not ok:
        raise VerificationError(code)
    return True


def _choose(_: SSL.Connection, offered: list[bytes]) -> bytes:
    if ALPN.encode() not in offered:
        raise NoProtocolError(offered)  # OpenSSL then sends no_application_protocol
    return ALPN.encode()


def _prove(
    server: SSL.Context, client: SSL.Context, files: TlsFiles
) -> tuple[x509.Certificate, x509.Certificate]:
    """Let our two contexts shake hands in memory; return what the accepting and the dialing end showed."""
    dialer = TlsConnection(client, dialing=True)
    acceptor = TlsConnection(server, dialing=False)
    try:
        for end, other in ((dialer, acceptor), (acceptor, dialer)) * 2:  # TLS 1.3's flights
            with suppress(WantRead):
                end.handshake()
            if flight := end.flight():
                other.feed(flight)
    except VerificationError as error:
        raise CertificateError(_unfit(error, files, dialing=end is acceptor)) from error
    except SSL.Error as error:
        raise CertificateError(
            f"the certificate {files.cert} is unfit for TLS 1.3: {explain(error)}"
        ) from error
    accepting, dialing = dialer.peer_certificate, acceptor.peer_certificate
    if accepting is None or dialing is None:
        raise CertificateError(f"the certificate {files.cert} is unfit for TLS 1.3: no handshake ends")
    return accepting, dialing


def _unfit(error: VerificationError, files: TlsFiles, *, dialing: bool) -> str:
    """Say what one of our own certificates lacks; the end that it was shown to has refused it."""
    cert = files.dialing()[0] if dialing else files.cert
    fault = f"the certificate {cert} {verdict(error, files, dialing=dialing)}"
    sibling = files.client_sibling()
    if dialing and sibling not in {None, cert}:
        return f"{fault}, or put one at {sibling}"
    return fault


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):  # none, or one that cannot be decoded
        return ()
    # Only ASCII, because some other letters become ASCII ones in lower case, and only what can be logged.
    return tuple(folded(name) for name in names if name.isascii() and name.isprintable())


def _nameless(files: TlsFiles) -> str:
    cert, dialing = files.cert, files.dialing()[0]
    if cert == dialing:
        return f"the certificate {cert} has no DNS subject alternative name (its CN does not count)"
    return f"the certificates {cert} and {dialing} share no DNS subject alternative name"

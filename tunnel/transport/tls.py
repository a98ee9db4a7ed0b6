"""TLS for lanes: version 1.3 only, both certificates required, identity by DNS name.

A context says which certificates are genuine; ``identify`` says whose certificate it is. Both are needed:
every host of the network has a genuine certificate.

OpenSSL's own defaults stand for ciphers and groups. There are no session tickets, so each lane proves its
identity afresh, and no early data.

::

    contexts = load(TlsFiles(ca, cert, key, crl))
    lane = contexts.client.wrap_bio(incoming, outgoing)     # no server_hostname: see identify
    ... handshake ...
    peer = identify(lane, {"hostb"})
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from tunnel.errors import CertificateError, IdentityError, LaneError
from tunnel.transport.keyfiles import TlsFiles, expiry, load_authorities, load_crl, load_pair, verdict

__all__ = [
    "ALPN",
    "TlsContexts",
    "TlsFiles",
    "client_context",
    "handshake_fault",
    "identify",
    "load",
    "peer_names",
    "server_context",
]

ALPN = "mtunnel/1"

_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"}  # what OpenSSL makes of other bytes

_Ends = tuple[ssl.SSLObject, ssl.SSLObject]  # the dialing one, the accepting one


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """What one host needs for all its lanes, proven to work at the time of loading.

    ``names`` are the lower-case DNS names that this host's certificates prove, both when it dials and when it
    is dialed; ``not_after`` is when the first of them expires (UTC).
    """

    files: TlsFiles
    server: ssl.SSLContext
    client: ssl.SSLContext
    names: tuple[str, ...]
    not_after: datetime


def load(files: TlsFiles) -> TlsContexts:
    """Build both contexts and prove them against each other, in memory.

    That handshake shows chain, dates, revocation, key and usages as the peers will judge them, and yields
    the facts of our own certificates. Raises ``CertificateError`` for whatever is wrong with the files.
    """
    server, client = server_context(files), client_context(files)
    dialer, acceptor = _prove(server, client, files)
    accepting, dialing = _certificate(dialer), _certificate(acceptor)
    names = tuple(name for name in _dns_names(accepting) if name in _dns_names(dialing))
    if not names:
        raise CertificateError(_nameless(files))
    return TlsContexts(files, server, client, names, min(expiry(accepting), expiry(dialing)))


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Make a context for accepting lanes; raises ``CertificateError``.

    A lane that needs ``keylog_filename`` must have a context of its own.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.num_tickets = 0
    load_pair(context, files.cert, files.key)
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Make a context for dialing lanes; raises ``CertificateError``. See ``server_context``."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    load_pair(context, *files.dialing())
    return context


def peer_names(lane: ssl.SSLObject | ssl.SSLSocket) -> tuple[str, ...]:
    """Return the DNS names in the peer's verified certificate, in lower case, in its order."""
    return _dns_names(_certificate(lane))


def identify(lane: ssl.SSLObject | ssl.SSLSocket, expected: Collection[str]) -> str:
    """Return the one name in ``expected`` that the peer's certificate proves, spelled as in ``expected``.

    When dialing, ``expected`` is the one peer that was dialed; when accepting, all configured peers. Names
    match exactly but for case; a wildcard in a certificate matches nothing.

    Raises ``IdentityError`` when the peer does not speak this protocol, is none of the expected, or is
    several of them: then it is not clear whose rights it has.
    """
    protocol = lane.selected_alpn_protocol()
    if protocol != ALPN:
        raise IdentityError(f"the peer does not speak {ALPN} (ALPN: {protocol}): is that port mtunnel's?")
    names = peer_names(lane)
    found = [name for name in expected if name.lower() in names]
    if len(found) == 1:
        return found[0]
    proven = ", ".join(names) or "nobody (it has no DNS subject alternative name)"
    if found:
        raise IdentityError(f"the peer's certificate names more than one configured peer: {', '.join(found)}")
    raise IdentityError(f"the peer's certificate names {proven}; expected {' or '.join(sorted(expected))}")


def handshake_fault(error: ssl.SSLError, files: TlsFiles, *, dialing: bool) -> LaneError:
    """Put a failed handshake with a peer into words: an ``IdentityError`` when we refused its certificate.

    ``dialing`` says which side of the handshake we were. A peer refuses the dialing side's certificate only
    after that side's handshake is over: then the error comes with the first read.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return IdentityError(f"the peer's certificate {verdict(error, files, dialing=not dialing)}")
    if error.reason in _NO_TLS:
        return LaneError("the peer does not speak TLS")
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if " alert " in reason:  # the only mark of what the peer sent
        return LaneError(f"the peer refused the TLS handshake: {reason}; its log says more")
    return LaneError(f"the TLS handshake failed: {reason}")


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # identify() decides, for both roles alike
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_COMPRESSION
    # Some builds of Python set it, Debian's 3.11 for one: a cut connection would look like a proper end.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols([ALPN])
    load_authorities(context, files.ca)
    if files.crl is not None:
        load_crl(context, files.crl)
    return context


def _prove(server: ssl.SSLContext, client: ssl.SSLContext, files: TlsFiles) -> _Ends:
    """Let our two contexts shake hands in memory; return the dialing and the accepting end."""
    to_dialer, to_acceptor = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialer = client.wrap_bio(to_dialer, to_acceptor)
    acceptor = server.wrap_bio(to_acceptor, to_dialer, server_side=True)
    try:
        for end in (dialer, acceptor, dialer, acceptor):  # TLS 1.3's three flights, and the last judgement
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(_unfit(error, files, dialing=end is acceptor)) from error
    except ssl.SSLError as error:
        raise CertificateError(
            f"the certificate {files.cert} is unfit for TLS 1.3: {error.reason}"
        ) from error
    return dialer, acceptor


def _unfit(error: ssl.SSLCertVerificationError, files: TlsFiles, *, dialing: bool) -> str:
    """Say what one of our own certificates lacks; the end that it was shown to has refused it."""
    cert = files.dialing()[0] if dialing else files.cert
    fault = f"the certificate {cert} {verdict(error, files, dialing=dialing)}"
    sibling = files.client_sibling()
    if dialing and sibling not in {None, cert}:
        return f"{fault}, or put one at {sibling}"
    return fault


def _certificate(lane: ssl.SSLObject | ssl.SSLSocket) -> dict[str, object]:
    return cast("dict[str, object]", lane.getpeercert() or {})


def _dns_names(certificate: dict[str, object]) -> tuple[str, ...]:
    sans = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    dns = [name for kind, name in sans if kind == "DNS"]
    # Only ASCII, because some other letters become ASCII ones in lower case, and only what can be logged.
    return tuple(name.lower() for name in dns if name.isascii() and name.isprintable())


def _nameless(files: TlsFiles) -> str:
    cert, dialing = files.cert, files.dialing()[0]
    if cert == dialing:
        return f"the certificate {cert} has no DNS subject alternative name (its CN does not count)"
    return f"the certificates {cert} and {dialing} share no DNS subject alternative name"

"""Handshakes of lanes by pyOpenSSL: on the OpenSSL bundled with ``cryptography``, not on Python's.

Certificates and files are checked in ``contexts`` and ``tls_files``; this module is one connection, in memory
only: the owner of the socket moves the bytes. After the handshake OpenSSL is not used: see ``record_layer``.

The functions that set up a context, ``set_purpose`` and the text of a CertificateRejectedError use the
binding of pyOpenSSL beyond its documented interface: there is no documented alternative.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from tunnel.wire.text import quoted

_FLIGHT = 1 << 16

WantRead = SSL.WantReadError

_lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001  see the module
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001
_one_at_a_time = threading.Lock()
"""pyOpenSSL stores an exception of a callback in the context, and any connection of that may raise it.
Without this lock, a connection of one thread could raise the error of another thread's peer."""

GROUPS = "*X25519MLKEM768 / *X25519:P-256 / P-384"
"""By preference; the dialing side sends a key share for those with a star (SSL_CTX_set1_groups_list(3))."""

OLDER_GROUPS = "X25519:P-256:P-384"
"""For an OpenSSL before 3.5."""

MOST_OFFERED = 128
"""Maximum characters shown of an ALPN offer of an unauthenticated peer."""

CLOSED = "closed"
"""The reason that ``explain`` returns for close_notify."""


class CertificateRejectedError(Exception):
    """Our side refused a certificate.

    ``code`` is OpenSSL's X509_V_ERR (openssl/x509_vfy.h); ``depth`` is the position of ``certificate`` in the
    chain, 0 for the host's own; ``trusted``: it is one of our authorities. ``crl`` is our newest CRL of its
    issuer.
    """

    def __init__(
        self,
        code: int,
        depth: int = 0,
        certificate: x509.Certificate | None = None,
        *,
        trusted: bool = False,
        crl: x509.CertificateRevocationList | None = None,
    ) -> None:
        super().__init__(_ffi.string(_lib.X509_verify_cert_error_string(code)).decode())
        self.code = code
        self.depth = depth
        self.certificate = certificate
        self.trusted = trusted
        self.crl = crl


class NoProtocolError(Exception):
    """The dialing side offers only unsupported protocols by ALPN: ``offered``."""

    def __init__(self, offered: list[bytes]) -> None:
        self.offered = quoted(
            ", ".join(name.decode("ascii", "backslashreplace") for name in offered), MOST_OFFERED
        )
        super().__init__(f"no common ALPN protocol; offered: {self.offered}")


def set_purpose(store: crypto.X509Store, *, client: bool) -> None:
    """Let ``store`` verify certificates of dialing hosts (``client``) or of accepting ones."""
    purpose = _lib.X509_PURPOSE_SSL_CLIENT if client else _lib.X509_PURPOSE_SSL_SERVER
    _lib.X509_STORE_set_purpose(store._store, purpose)  # noqa: SLF001  see the module


def limit_groups(context: SSL.Context) -> None:
    """Limit key exchange to ``GROUPS``, or to those of them that this OpenSSL supports."""
    if not _lib.SSL_CTX_set1_curves_list(context._context, GROUPS.encode()):  # noqa: SLF001  see the module
        _lib.SSL_CTX_set1_curves_list(context._context, OLDER_GROUPS.encode())  # noqa: SLF001
        _lib.ERR_clear_error()


def enable_keylog(context: SSL.Context) -> None:
    """Let connections of ``context`` keep their ``secrets``, which the record layer needs."""
    context.set_keylog_callback(_keep_secret)


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    label, _, secret = line.decode().split()
    connection.get_app_data()[label] = bytes.fromhex(secret)


class TlsConnection:
    """One end of a TLS connection in memory: ``feed`` takes its input, ``flight`` returns its output."""

    def __init__(self, context: SSL.Context, *, dialing: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self.secrets: dict[str, bytes] = {}  # by key log label
        self._connection.set_app_data(self.secrets)
        if dialing:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self.feed = self._connection.bio_write

    def handshake(self) -> None:
        """Process the input. WantRead: more is needed. Raises what the context's callbacks raise."""
        with _one_at_a_time:
            self._connection.do_handshake()

    def flight(self) -> bytes:
        """Return all pending output."""
        output = bytearray()
        with suppress(WantRead):
            while True:
                output += self._connection.bio_read(_FLIGHT)
        return bytes(output)

    # Negotiated values.

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._connection.get_cipher_name() or "none"

    @property
    def version(self) -> str:
        """The TLS version, as OpenSSL writes it: ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    @property
    def protocol(self) -> str | None:
        """The negotiated ALPN protocol."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii", "replace") or None

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The peer's verified certificate. None without verification, or before the handshake has ended."""
        if not self._connection.get_verify_mode() & SSL.VERIFY_PEER:
            return None
        return self._connection.get_peer_certificate(as_cryptography=True)

    @property
    def verified_chain(self) -> tuple[x509.Certificate, ...]:
        """The peer's verified chain, its own certificate first. Empty without verification."""
        if not self._connection.get_verify_mode() & SSL.VERIFY_PEER:
            return ()
        return tuple(self._connection.get_verified_chain(as_cryptography=True) or ())


def explain(error: SSL.Error) -> str:
    """Return OpenSSL's reason in lower case, or ``CLOSED``."""
    if isinstance(error, SSL.ZeroReturnError):
        return CLOSED
    errors = error.args[0] if error.args and isinstance(error.args[0], list) else ()
    for library, _, reason in errors:
        return str(reason or library).lower()
    return "unknown reason"


def is_alert(reason: str) -> bool:
    """Whether ``explain`` returned an alert of the peer: only OpenSSL's text shows it."""
    return " alert " in reason

"""The handshakes of lanes, by pyOpenSSL: on the OpenSSL that ``cryptography`` brings, not on Python's.

Certificates and files are looked at in ``contexts`` and ``tls_files``; here is what one connection does, all
of it in memory: whoever owns the socket moves the bytes. What follows the handshake is not OpenSSL's: see
``record_layer``.

The functions that set up a context, ``set_purpose`` and the words of a VerificationError are what is used
here of pyOpenSSL's binding, beyond its documented interface: there is no other way to what they do.
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
"""pyOpenSSL keeps what a callback raises at the context, for whichever of its connections asks first. One of
another thread must not, or the fault of one peer's certificate is told of another's."""

GROUPS = "*X25519MLKEM768 / *X25519:P-256 / P-384"
"""By preference; a dialing side sends a key share for each with a star (SSL_CTX_set1_groups_list(3))."""

OLDER_GROUPS = "X25519:P-256:P-384"
"""For an OpenSSL before 3.5."""

MOST_OFFERED = 128
"""Characters of what a stranger offers by ALPN that are shown."""

CLOSED = "closed"
"""What ``explain`` says when the peer ended the connection with close_notify."""


class CertificateRejectedError(Exception):
    """A certificate was refused by us.

    ``code`` is OpenSSL's X509_V_ERR (openssl/x509_vfy.h); ``depth`` is where in the chain the fault is, 0 for
    the host's own ``certificate``; ``trusted`` says that it is one of our authorities. ``crl`` is the newest
    one of its issuer that we have.
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
    """The dialing side offers, by ALPN, only what we do not speak. ``offered`` is what."""

    def __init__(self, offered: list[bytes]) -> None:
        self.offered = quoted(
            ", ".join(name.decode("ascii", "backslashreplace") for name in offered), MOST_OFFERED
        )
        super().__init__(f"no protocol in common; offered: {self.offered}")


def set_purpose(store: crypto.X509Store, *, client: bool) -> None:
    """Let ``store`` verify certificates of dialing hosts, or else of accepting ones."""
    purpose = _lib.X509_PURPOSE_SSL_CLIENT if client else _lib.X509_PURPOSE_SSL_SERVER
    _lib.X509_STORE_set_purpose(store._store, purpose)  # noqa: SLF001  see the module


def limit_groups(context: SSL.Context) -> None:
    """Agree on keys by the groups of ``GROUPS``, or what this OpenSSL knows of them, and by no other."""
    if not _lib.SSL_CTX_set1_curves_list(context._context, GROUPS.encode()):  # noqa: SLF001  see the module
        _lib.SSL_CTX_set1_curves_list(context._context, OLDER_GROUPS.encode())  # noqa: SLF001
        _lib.ERR_clear_error()


def enable_keylog(context: SSL.Context) -> None:
    """Let connections of ``context`` keep their ``secrets``: records are made without OpenSSL."""
    context.set_keylog_callback(_keep_secret)


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    label, _, secret = line.decode().split()
    connection.get_app_data()[label] = bytes.fromhex(secret)


class TlsConnection:
    """One end, in memory: what came is given to it by ``feed``; ``flight`` is what it has to say."""

    def __init__(self, context: SSL.Context, *, dialing: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self.secrets: dict[str, bytes] = {}  # by their names in a key log
        self._connection.set_app_data(self.secrets)
        if dialing:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self.feed = self._connection.bio_write

    def handshake(self) -> None:
        """Go on with what was fed. WantRead: more has to come. Raises what the context's callbacks do."""
        with _one_at_a_time:
            self._connection.do_handshake()

    def flight(self) -> bytes:
        """Take all that is to be sent."""
        output = bytearray()
        with suppress(WantRead):
            while True:
                output += self._connection.bio_read(_FLIGHT)
        return bytes(output)

    # What the handshake settled.

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
        """The ALPN protocol that both sides agreed on."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii", "replace") or None

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """What the peer proved with. None if nobody asked for proof, or before the handshake is over."""
        if not self._connection.get_verify_mode() & SSL.VERIFY_PEER:
            return None
        return self._connection.get_peer_certificate(as_cryptography=True)

    @property
    def verified_chain(self) -> tuple[x509.Certificate, ...]:
        """The peer's chain as it was verified, its own certificate first. Empty where that was not done."""
        if not self._connection.get_verify_mode() & SSL.VERIFY_PEER:
            return ()
        return tuple(self._connection.get_verified_chain(as_cryptography=True) or ())


def explain(error: SSL.Error) -> str:
    """Say what OpenSSL found: its reason in lower case, or ``CLOSED``."""
    if isinstance(error, SSL.ZeroReturnError):
        return CLOSED
    told = error.args[0] if error.args and isinstance(error.args[0], list) else ()
    for library, _, reason in told:
        return str(reason or library).lower()
    return "unknown reason"


def is_alert(reason: str) -> bool:
    """Whether ``explain`` told of an alert that the peer sent: the only mark is in OpenSSL's words."""
    return " alert " in reason

"""TLS connections of lanes, by pyOpenSSL: on the OpenSSL that ``cryptography`` brings, not on Python's.

That one is newer than a distribution's, and encrypts AES-GCM in half the time on processors of these years
(VAES, since OpenSSL 3.1). Certificates and files are looked at in ``tls`` and ``keyfiles``; here is what one
connection does, over a non-blocking socket or, with ``feed`` and ``drain``, in memory.

pyOpenSSL can only receive through a buffer of its own, allocated and copied for each record of 16 KiB, and
says "wait" by an exception, several times in each MiB. So ``receive`` and ``send`` call ``SSL_read`` and
``SSL_write`` of its binding themselves, and ``_reason`` ``SSL_get_error``; with ``whole_writes`` that is all
that is used here beyond its documented interface.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from cryptography import x509
from OpenSSL import SSL

RECORD = 16 * 1024
"""The most plain bytes in a record (RFC 8446 section 5.1), and so in a call to OpenSSL's read."""

HEADER = 5
"""Bytes in front of a record: its type, a version, its length."""

_FLIGHT = 1 << 16

WantRead = SSL.WantReadError
WantWrite = SSL.WantWriteError

_lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001  see the module
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001
_SSL_read, _SSL_write, _from_buffer = _lib.SSL_read, _lib.SSL_write, _ffi.from_buffer
_WAITS = {_lib.SSL_ERROR_WANT_READ: WantRead(), _lib.SSL_ERROR_WANT_WRITE: WantWrite()}

CLOSED = "closed"
"""What ``explain`` says when the peer ended the connection, with close_notify or without."""


class VerificationError(Exception):
    """A certificate was refused by us. ``code`` is OpenSSL's X509_V_ERR (openssl/x509_vfy.h)."""

    def __init__(self, code: int) -> None:
        super().__init__(_ffi.string(_lib.X509_verify_cert_error_string(code)).decode())
        self.code = code


class Buffer:
    """Memory to decrypt into. ``view`` is all of it."""

    def __init__(self, size: int) -> None:
        memory = bytearray(size)
        self.view = memoryview(memory)
        self.start = _ffi.from_buffer(memory)  # not of the view: garbage collection can crash on that


def whole_writes(context: SSL.Context) -> None:
    """Let ``send`` take all of its data in one call, not a record at a time."""
    context.clear_mode(_lib.SSL_MODE_ENABLE_PARTIAL_WRITE)


def log_secrets(context: SSL.Context) -> None:
    """Let the connections of ``context`` keep their ``secrets``: a kernel lane needs them."""
    context.set_keylog_callback(_keep_secret)


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    label, _, secret = line.decode().split()
    connection.get_app_data()[label] = bytes.fromhex(secret)


class TlsConnection:
    """One end. Calls that move bytes raise WantRead or WantWrite, or another SSL.Error: see ``explain``."""

    def __init__(self, context: SSL.Context, sock: socket.socket | None, *, dialing: bool) -> None:
        self._connection = SSL.Connection(context, sock)
        self._ssl = self._connection._ssl  # noqa: SLF001  see the module
        self.secrets: dict[str, bytes] = {}  # by their names in a key log, if ``log_secrets``
        self._connection.set_app_data(self.secrets)
        if dialing:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self.handshake = self._connection.do_handshake
        self.feed = self._connection.bio_write
        self.drain = self._connection.bio_read

    def flight(self) -> bytes:
        """Take all that is to be sent, of a connection in memory."""
        output = bytearray()
        with suppress(WantRead):
            while True:
                output += self.drain(_FLIGHT)
        return bytes(output)

    def send(self, data: bytes | memoryview) -> SSL.Error | None:
        """Encrypt and send all of ``data``.

        Returns None, or why not: after WantRead or WantWrite, come again with the same.
        """
        count = _SSL_write(self._ssl, _from_buffer(data), len(data))
        return None if count > 0 else self._reason(count)

    def receive(self, buffer: Buffer, most: int) -> tuple[int, SSL.Error | None]:
        """Decrypt what has arrived into ``buffer``, until it holds ``most`` bytes or more.

        Returns how many bytes it holds, and why no more came: None while there may be more. ``most`` and a
        record must fit.
        """
        ssl, start, filled = self._ssl, buffer.start, 0
        while filled < most:
            count = _SSL_read(ssl, start + filled, RECORD)
            if count <= 0:
                return filled, self._reason(count)
            filled += count
        return filled, None

    def _reason(self, result: int) -> SSL.Error:
        if (wait := _WAITS.get(_lib.SSL_get_error(self._ssl, result))) is not None:
            return wait  # by far the most common
        try:
            self._connection._raise_ssl_error(self._ssl, result)  # noqa: SLF001  see the module
        except SSL.Error as error:
            return error.with_traceback(None)  # it would keep the frames, and what they hold
        finally:
            _lib.ERR_clear_error()  # what is left there, OpenSSL 3 takes for the next connection's
        return SSL.Error()

    def say_goodbye(self) -> None:
        """Send close_notify; the peer's is not waited for."""
        self._connection.shutdown()

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


def count_records(flight: bytes) -> int:
    """How many TLS records a whole flight is."""
    count = position = 0
    while position < len(flight):
        position += HEADER + int.from_bytes(flight[position + 3 : position + HEADER])
        count += 1
    return count


def explain(error: SSL.Error) -> str:
    """Say what OpenSSL found: its reason in lower case, the system's, or ``CLOSED``."""
    match error:
        case SSL.ZeroReturnError():
            return CLOSED
        case SSL.SysCallError(args=(int(number), _)):
            return os.strerror(number) if number > 0 else CLOSED
    told = error.args[0] if error.args and isinstance(error.args[0], list) else ()
    for library, _, reason in told:
        return str(reason or library).lower()
    return "unknown reason"


def is_alert(reason: str) -> bool:
    """Whether ``explain`` told of an alert that the peer sent: the only mark is in OpenSSL's words."""
    return " alert " in reason


def is_broken(error: SSL.Error) -> bool:
    """Whether the connection under TLS is at fault, not what came over it."""
    return isinstance(error, SSL.SysCallError)

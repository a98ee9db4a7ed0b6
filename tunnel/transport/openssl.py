"""TLS connections of lanes, by pyOpenSSL: on the OpenSSL that ``cryptography`` brings, not on Python's.

That one is newer than a distribution's, and encrypts AES-GCM in half the time on processors of these years
(VAES, since OpenSSL 3.1). Certificates and files are looked at in ``tls`` and ``keyfiles``; here is what one
connection does, all of it in memory: whoever owns the socket moves the bytes, many records in one call.

pyOpenSSL can only receive through a buffer of its own, allocated and copied for each record of 16 KiB, and
says "wait" by an exception. So ``encrypt``, ``take`` and ``decrypt`` call ``SSL_write``, ``BIO_read`` and
``SSL_read`` of its binding themselves, and ``_reason`` ``SSL_get_error``; with the functions that set up a
context (``whole_writes`` and those behind it) and ``set_purpose`` that is all that is used here beyond its
documented interface.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from tunnel.transport.tls_messages import HEADER, RECORD
from tunnel.wire.text import quoted

MOST_READS = 256
"""Records that one call decrypts, and messages of TLS itself that it takes. Of full ones a batch has 32."""

_LEAST = HEADER + 1 + 16  # bytes around the content of a record: its true type, and the tag of every suite
_MOST = RECORD + 256 + HEADER  # bytes of a whole record (RFC 8446 section 5.2)
_FLIGHT = 1 << 16

WantRead = SSL.WantReadError

_lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001  see the module
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001
_SSL_read, _SSL_write, _BIO_read, _from_buffer = (
    _lib.SSL_read,
    _lib.SSL_write,
    _lib.BIO_read,
    _ffi.from_buffer,
)
_ERROR_WANT_READ = _lib.SSL_ERROR_WANT_READ
_WANT_READ = WantRead()

GROUPS = "*X25519MLKEM768 / *X25519:P-256 / P-384"
"""By preference; a dialing side sends a key share for each with a star (SSL_CTX_set1_groups_list(3))."""

OLDER_GROUPS = "X25519:P-256:P-384"
"""For an OpenSSL before 3.5."""

MOST_OFFERED = 128
"""Characters of what a stranger offers by ALPN that are shown."""

CLOSED = "closed"
"""What ``explain`` says when the peer ended the connection with close_notify."""


class VerificationError(Exception):
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


class Buffer:
    """Memory for OpenSSL to read or to write. ``view`` is all of it."""

    def __init__(self, size: int) -> None:
        memory = bytearray(size)
        self.view = memoryview(memory)
        self.start = _ffi.from_buffer(memory)  # not of the view: garbage collection can crash on that


def whole_writes(context: SSL.Context) -> None:
    """Let ``encrypt`` take all of its data in one call, not a record at a time."""
    context.clear_mode(_lib.SSL_MODE_ENABLE_PARTIAL_WRITE)


def set_purpose(store: crypto.X509Store, *, client: bool) -> None:
    """Let ``store`` verify certificates of dialing hosts, or else of accepting ones."""
    purpose = _lib.X509_PURPOSE_SSL_CLIENT if client else _lib.X509_PURPOSE_SSL_SERVER
    _lib.X509_STORE_set_purpose(store._store, purpose)  # noqa: SLF001  see the module


def limit_groups(context: SSL.Context) -> None:
    """Agree on keys by the groups of ``GROUPS``, or what this OpenSSL knows of them, and by no other."""
    if not _lib.SSL_CTX_set1_curves_list(context._context, GROUPS.encode()):  # noqa: SLF001  see the module
        _lib.SSL_CTX_set1_curves_list(context._context, OLDER_GROUPS.encode())  # noqa: SLF001
        _lib.ERR_clear_error()


def log_secrets(context: SSL.Context) -> None:
    """Let connections of ``context`` keep their ``secrets``: for kernel lanes, and for alerts of ours."""
    context.set_keylog_callback(_keep_secret)


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    label, _, secret = line.decode().split()
    connection.get_app_data()[label] = bytes.fromhex(secret)


class TlsConnection:
    """One end, in memory. What it has to say is to be taken by ``flight`` or ``take``, and sent.

    What came is given to it by ``feed`` in the handshake, and by ``decrypt`` from then on. ``records_sent``
    counts what ``encrypt`` made, besides the session tickets of an accepting end.
    """

    def __init__(self, context: SSL.Context, *, dialing: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self._ssl = self._connection._ssl  # noqa: SLF001  see the module
        self._output = self._connection._from_ssl  # noqa: SLF001
        self.secrets: dict[str, bytes] = {}  # by their names in a key log, if ``log_secrets``
        self.more = False  # there is more at hand than ``decrypt`` has decrypted
        self.asides = 0  # messages of TLS itself that came behind the handshake
        self._source: Any = None  # what OpenSSL reads from, once ``decrypt`` was called
        self._data = _ffi.new("char **")
        self._kept: Buffer | None = None
        self.records_sent = 0
        self._records_read = 0
        self._around = 0  # bytes that came and are no content
        self._connection.set_app_data(self.secrets)
        # pyOpenSSL sets it: a read would go on behind messages of TLS itself, KeyUpdates, any number of them.
        _lib.SSL_clear_mode(self._ssl, _lib.SSL_MODE_AUTO_RETRY)
        if dialing:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self.handshake = self._connection.do_handshake
        self.feed = self._connection.bio_write

    def flight(self) -> bytes:
        """Take all that is to be sent."""
        output = bytearray()
        with suppress(WantRead):
            while True:
                output += self._connection.bio_read(_FLIGHT)
        return bytes(output)

    def take(self, buffer: Buffer) -> int:
        """Take what is to be sent, as much as ``buffer`` holds; how many bytes."""
        count: int = _BIO_read(self._output, buffer.start, len(buffer.view))
        return max(0, count)

    def encrypt(self, data: bytes | memoryview) -> None:
        """Encrypt all of ``data``, for ``take``. SSL.Error when the connection is of no more use."""
        if (count := _SSL_write(self._ssl, _from_buffer(data), len(data))) <= 0:
            raise self._reason(count)
        self.records_sent += -(-len(data) // RECORD)

    def decrypt(self, cipher: Buffer, size: int, buffer: Buffer) -> tuple[int, SSL.Error]:
        """Decrypt ``size`` bytes of ``cipher`` into ``buffer``, which must hold them and two records.

        Returns how many plain bytes there are, and why not more: WantRead, as long as all is well. The
        beginning of a record stays with OpenSSL until its rest comes. Where records are tiny, what is behind
        the first ``MOST_READS`` of them is kept: then ``more``, and ``decrypt_more`` goes on with it.
        """
        self._connection._into_ssl = None  # noqa: SLF001  freed by what follows: from now on ``feed`` raises
        self._read_from(cipher.start, size)
        self._around += size
        return self.decrypt_more(buffer)

    def decrypt_more(self, buffer: Buffer) -> tuple[int, SSL.Error]:
        """Do what ``decrypt`` does with what it has kept."""
        ssl, start, filled = self._ssl, buffer.start, 0
        for records in range(MOST_READS):
            if (count := _SSL_read(ssl, start + filled, RECORD)) > 0:
                filled += count
                continue
            reason = self._reason(count)
            if reason is not _WANT_READ or not self._unread():
                self.more = False
                self._took(records, filled)
                return filled, reason
            self.asides += 1  # it stopped behind a message of TLS itself
        self._keep_unread()
        self._took(MOST_READS, filled)
        return filled, _WANT_READ

    def _took(self, records: int, content: int) -> None:
        """Count what was read: of messages of TLS itself there is one in a record at least."""
        self._records_read += records
        self._around -= content

    def take_asides(self) -> int:
        """How many messages of TLS itself came since this was last called."""
        count, self.asides = self.asides, 0
        return count

    def _read_from(self, memory: Any, size: int) -> None:
        self._source = source = _lib.BIO_new_mem_buf(memory, size)
        _lib.BIO_set_mem_eof_return(source, -1)  # its end is no end of the connection
        _lib.SSL_set_bio(self._ssl, source, self._output)

    def _unread(self) -> int:
        """Bytes that OpenSSL has not taken yet of what it reads from."""
        count: int = _lib.BIO_get_mem_data(self._source, self._data)
        return count

    def _keep_unread(self) -> None:
        """Copy it, once: its memory is the lanes' of this loop, and will be used again."""
        size, had_more = self._unread(), self.more
        self.more = size > 0
        if self.more and not had_more:
            self._kept = Buffer(size)
            self._kept.view[:] = _ffi.buffer(self._data[0], size)
            self._read_from(self._kept.start, size)

    @property
    def records_received(self) -> int:
        """How many records came, exactly if none was padded or empty.

        OpenSSL tells nothing of those: each byte around content counts as a part of an empty record, but for
        a whole record's, which may have come in part. So it is at most 757 too few, and else too many.
        """
        unexplained = self._around - _LEAST * self._records_read - _MOST
        if self.more:
            unexplained -= self._unread()
        return self._records_read + max(0, unexplained) // _LEAST

    def _reason(self, result: int) -> SSL.Error:
        if _lib.SSL_get_error(self._ssl, result) == _ERROR_WANT_READ:
            return _WANT_READ  # by far the most common
        try:
            self._connection._raise_ssl_error(self._ssl, result)  # noqa: SLF001  see the module
        except SSL.Error as error:
            return error.with_traceback(None)  # it would keep the frames, and what they hold
        finally:
            _lib.ERR_clear_error()  # what is left there, OpenSSL 3 takes for the next connection's
        return SSL.Error()

    def say_goodbye(self) -> None:
        """Have close_notify to be sent; the peer's is not waited for."""
        with suppress(SSL.Error):  # nothing can be said any more, or it was said already
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

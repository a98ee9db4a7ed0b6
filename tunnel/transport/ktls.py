"""Kernel TLS by hand: from the secrets of a handshake to a socket that encrypts by itself (tls(7), RFC 8446).

OpenSSL could hand its keys to the kernel itself, but not every build of it does, and 3.0 cannot for what is
received in TLS 1.3. So it only shakes hands, and tells the traffic secrets to a key log; keys follow from
them here, and with the numbers of the records that it sent and took under these keys, the kernel goes on.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tunnel.errors import LaneError

ALERT, HANDSHAKE, DATA = 21, 22, 23
"""Content types of records (RFC 8446 section 5.1)."""

CLOSE_NOTIFY = b"\x01\x00"
NEW_SESSION_TICKET, KEY_UPDATE = 4, 24

FATAL = 2
BAD_CERTIFICATE, ACCESS_DENIED, NO_APPLICATION_PROTOCOL = 42, 49, 120
"""Alerts by which one side refuses the other (section 6.2)."""

NOT_LISTED = (
    "the peer does not list this host in its configuration, or lists it twice (TLS alert access_denied): "
    "there has to be one [[peer]] there whose name is in this host's certificate"
)
"""What access_denied means to the dialing side: only the accepting one sends it."""

_ALERTS = {  # those that a peer has reason to send once it knows our certificate (section 6)
    10: "unexpected_message",
    20: "bad_record_mac",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    48: "unknown_ca",
    49: "access_denied",
    80: "internal_error",
    116: "certificate_required",
    120: "no_application_protocol",
}

NO_MODULE = "module tls not loaded"

_TCP_ULP = 31  # linux/tcp.h; not in Python 3.11's socket module
_SOL_TLS = 282
SEND, RECEIVE = 1, 2
"""Directions: TLS_TX and TLS_RX of linux/tls.h."""

_SET_RECORD_TYPE, _GET_RECORD_TYPE = 1, 2
_TLS_1_3 = 0x0304
_CONTROL = 1 << 14  # the most bytes of a record


class NoModuleError(LaneError):
    """The kernel has no TLS until its module is loaded; it may not be there at all."""


@dataclass(frozen=True, slots=True)
class _Suite:
    """``number`` is the kernel's; of the 12 bytes of an IV, the first ``salt`` stand apart in its struct."""

    number: int
    key: int
    salt: int
    hash: hashes.HashAlgorithm


_SUITES: Mapping[str, _Suite] = {
    "TLS_AES_256_GCM_SHA384": _Suite(52, 32, 4, hashes.SHA384()),
    "TLS_CHACHA20_POLY1305_SHA256": _Suite(54, 32, 0, hashes.SHA256()),
    "TLS_AES_128_GCM_SHA256": _Suite(51, 16, 4, hashes.SHA256()),
}

SUITES = tuple(_SUITES)
"""Cipher suites that a kernel may know, in OpenSSL's order of preference."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What the kernel of this host can do: cipher suites, none for no kernel lanes; and why, in words."""

    suites: tuple[str, ...]
    reason: str


UNASKED = Capability((), "kernel lanes were not asked for")


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a connection: its traffic secret, and how many records it has seen under it."""

    secret: bytes
    records: int


@dataclass(frozen=True, slots=True)
class Keys:
    """What a kernel needs to go on with a connection."""

    cipher: str
    send: Direction
    receive: Direction


def keys_of(cipher: str, secrets: Mapping[str, bytes], *, dialing: bool, sent: int, received: int) -> Keys:
    """Sort the ``secrets`` of a key log by direction; ``sent`` and ``received`` are records."""
    ours, theirs = ("CLIENT", "SERVER") if dialing else ("SERVER", "CLIENT")
    return Keys(
        cipher,
        Direction(secrets[f"{ours}_TRAFFIC_SECRET_0"], sent),
        Direction(secrets[f"{theirs}_TRAFFIC_SECRET_0"], received),
    )


def expand_label(secret: bytes, label: str, length: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """HKDF-Expand-Label of RFC 8446 section 7.1, for an empty context."""
    name = b"tls13 " + label.encode()
    info = struct.pack("!HB", length, len(name)) + name + b"\0"
    return HKDFExpand(algorithm, length, info).derive(secret)


def key_and_iv(cipher: str, secret: bytes) -> tuple[bytes, bytes]:
    """What ``cipher`` encrypts with under a traffic secret (RFC 8446 section 7.3)."""
    suite = _SUITES[cipher]
    key = expand_label(secret, "key", suite.key, suite.hash)
    return key, expand_label(secret, "iv", 12, suite.hash)


def crypto_info(cipher: str, direction: Direction) -> bytes:
    """Write the struct ``tls12_crypto_info_*`` of linux/tls.h for ``cipher``."""
    suite = _SUITES[cipher]
    key, iv = key_and_iv(cipher, direction.secret)
    head = struct.pack("=HH", _TLS_1_3, suite.number)
    return head + iv[suite.salt :] + key + iv[: suite.salt] + struct.pack("!Q", direction.records)


def enable(sock: socket.socket, keys: Keys) -> None:
    """Let the kernel encrypt and decrypt on ``sock`` from now on. LaneError when it does not."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
    except FileNotFoundError as error:
        raise NoModuleError(f"the kernel does no TLS: {NO_MODULE}") from error
    except OSError as error:
        raise LaneError(f"the kernel does no TLS: {error.strerror}") from error
    try:
        sock.setsockopt(_SOL_TLS, SEND, crypto_info(keys.cipher, keys.send))
        sock.setsockopt(_SOL_TLS, RECEIVE, crypto_info(keys.cipher, keys.receive))
    except OSError as error:
        raise LaneError(f"the kernel does not encrypt with {keys.cipher}: {error.strerror}") from error


def record_number(sock: socket.socket, cipher: str, direction: int) -> int:
    """How many records were protected with the key of ``direction``, ``SEND`` or ``RECEIVE``.

    The kernel's own count: the end of the struct that ``crypto_info`` writes. Raises OSError.
    """
    size = 24 + _SUITES[cipher].key  # 4 of a head, 12 of an IV, 8 of this number
    return int.from_bytes(sock.getsockopt(_SOL_TLS, direction, size)[-8:], "big")


def is_control(error: OSError) -> bool:
    """Whether reading failed because the next record is not DATA: ``receive_record`` takes it."""
    return error.errno in {errno.EIO, errno.EINVAL}


def send_record(sock: socket.socket, kind: int, content: bytes) -> None:
    """Send one record of another type than DATA. Raises OSError."""
    sock.sendmsg([content], [(_SOL_TLS, _SET_RECORD_TYPE, bytes([kind]))])


def receive_record(sock: socket.socket) -> tuple[int, bytes]:
    """Take the next record, or a part of it if it is DATA: its type and content. Raises OSError."""
    content, ancillary, _, _ = sock.recvmsg(_CONTROL, socket.CMSG_SPACE(1))
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_TLS, _GET_RECORD_TYPE):
            return value[0], content
    return DATA, content


def explain(kind: int, content: bytes) -> str:
    """Why a connection is of no more use after a record; "" if it is."""
    if kind == ALERT:
        return _explain_alert(content)
    if kind == HANDSHAKE:
        return _explain_handshake(content)
    return "" if kind == DATA else f"the peer broke TLS: a record of type {kind}"


def _explain_alert(content: bytes) -> str:
    if content == CLOSE_NOTIFY:
        return "it was closed without GOAWAY"
    if len(content) != 2:
        return f"the peer broke TLS: an alert of {len(content)} bytes"
    number = content[1]
    if number == ACCESS_DENIED:
        return NOT_LISTED
    name = f" ({_ALERTS[number]})" if number in _ALERTS else ""
    return f"the peer refused it: TLS alert {number}{name}; its log says more"


def _explain_handshake(content: bytes) -> str:
    """OpenSSL sends session tickets behind its handshake; nobody uses them. Nothing else may follow."""
    while len(content) >= 4 and content[0] == NEW_SESSION_TICKET:
        end = 4 + int.from_bytes(content[1:4])
        if end > len(content):
            break
        content = content[end:]
    if not content:
        return ""
    if content[0] == KEY_UPDATE:
        return "the peer changed its keys, which a kernel lane cannot follow"
    return "the peer began another handshake"


def describe(error: OSError) -> str:
    """Why a read or write on a kernel lane failed, in words."""
    if error.errno == errno.EBADMSG:
        return "TLS failed: a record is not what the peer sent"
    return os.strerror(error.errno or 0)

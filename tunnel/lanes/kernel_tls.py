"""Kernel TLS: passes the keys of a connection to the kernel (tls(7), RFC 8446).

OpenSSL can enable kernel TLS itself, but not in every build, and 3.0 cannot for receiving in TLS 1.3. So
OpenSSL only does the handshake; the kernel continues with the keys (``key_schedule``) and record numbers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from tunnel.errors import LaneError
from tunnel.records.key_schedule import SUITES, Direction, Keys, key_and_iv
from tunnel.records.tls_messages import DATA, RECORD, SPOILT

NO_MODULE = "module tls not loaded"

_TCP_ULP = 31  # linux/tcp.h; not in Python 3.11's socket module
_SOL_TLS = 282
SEND, RECEIVE = 1, 2
"""Directions: TLS_TX and TLS_RX of linux/tls.h."""

_SET_RECORD_TYPE, _GET_RECORD_TYPE = 1, 2
_TLS_1_3 = 0x0304


class NoModuleError(LaneError):
    """The module tls is not loaded, or does not exist."""


def crypto_info(cipher: str, direction: Direction) -> bytes:
    """Return the struct ``tls12_crypto_info_*`` of linux/tls.h for ``cipher``."""
    suite = SUITES[cipher]
    key, iv = key_and_iv(cipher, direction.secret)
    head = struct.pack("=HH", _TLS_1_3, suite.number)
    return head + iv[suite.salt :] + key + iv[: suite.salt] + struct.pack("!Q", direction.records)


def enable(sock: socket.socket, keys: Keys) -> None:
    """Enable kernel TLS on ``sock`` in both directions. Raises LaneError."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
    except FileNotFoundError as error:
        raise NoModuleError(f"kernel TLS is not available: {NO_MODULE}") from error
    except OSError as error:
        raise LaneError(f"kernel TLS is not available: {error.strerror}") from error
    try:
        sock.setsockopt(_SOL_TLS, SEND, crypto_info(keys.cipher, keys.send))
        sock.setsockopt(_SOL_TLS, RECEIVE, crypto_info(keys.cipher, keys.receive))
    except OSError as error:
        raise LaneError(f"kernel TLS does not support {keys.cipher}: {error.strerror}") from error


def record_number(sock: socket.socket, cipher: str, direction: int) -> int:
    """Return the number of records protected with the key of ``direction``, ``SEND`` or ``RECEIVE``.

    It is the kernel's count: the last field of the struct of ``crypto_info``. Raises OSError.
    """
    size = 24 + SUITES[cipher].key  # 4 of a head, 12 of an IV, 8 of this number
    return int.from_bytes(sock.getsockopt(_SOL_TLS, direction, size)[-8:], "big")


def is_control(error: OSError) -> bool:
    """Whether reading failed because the next record is not DATA: ``receive_record`` reads it."""
    return error.errno in {errno.EIO, errno.EINVAL}


def send_record(sock: socket.socket, kind: int, content: bytes) -> None:
    """Send one record of a type other than DATA. Raises OSError."""
    sock.sendmsg([content], [(_SOL_TLS, _SET_RECORD_TYPE, bytes([kind]))])


def receive_record(sock: socket.socket) -> tuple[int, bytes]:
    """Read the next record, or a part of it if it is DATA; return type and content. Raises OSError."""
    content, ancillary, _, _ = sock.recvmsg(RECORD, socket.CMSG_SPACE(1))
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_TLS, _GET_RECORD_TYPE):
            return value[0], content
    return DATA, content


def describe(error: OSError) -> str:
    """Return why a read or write on a kernel lane failed."""
    if error.errno == errno.EBADMSG:
        return SPOILT
    return os.strerror(error.errno or 0)

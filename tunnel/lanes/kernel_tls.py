"""Kernel TLS by hand: from the keys of a connection to a socket that encrypts by itself (tls(7), RFC 8446).

OpenSSL could hand its keys to the kernel itself, but not every build of it does, and 3.0 cannot for what is
received in TLS 1.3. So it only shakes hands; with the keys (``key_schedule``) and the numbers of the records
that it sent and took under them, the kernel goes on.
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
    """The kernel has no TLS until its module is loaded; it may not be there at all."""


def crypto_info(cipher: str, direction: Direction) -> bytes:
    """Write the struct ``tls12_crypto_info_*`` of linux/tls.h for ``cipher``."""
    suite = SUITES[cipher]
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
    size = 24 + SUITES[cipher].key  # 4 of a head, 12 of an IV, 8 of this number
    return int.from_bytes(sock.getsockopt(_SOL_TLS, direction, size)[-8:], "big")


def is_control(error: OSError) -> bool:
    """Whether reading failed because the next record is not DATA: ``receive_record`` takes it."""
    return error.errno in {errno.EIO, errno.EINVAL}


def send_record(sock: socket.socket, kind: int, content: bytes) -> None:
    """Send one record of another type than DATA. Raises OSError."""
    sock.sendmsg([content], [(_SOL_TLS, _SET_RECORD_TYPE, bytes([kind]))])


def receive_record(sock: socket.socket) -> tuple[int, bytes]:
    """Take the next record, or a part of it if it is DATA: its type and content. Raises OSError."""
    content, ancillary, _, _ = sock.recvmsg(RECORD, socket.CMSG_SPACE(1))
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_TLS, _GET_RECORD_TYPE):
            return value[0], content
    return DATA, content


def describe(error: OSError) -> str:
    """Why a read or write on a kernel lane failed, in words."""
    if error.errno == errno.EBADMSG:
        return SPOILT
    return os.strerror(error.errno or 0)

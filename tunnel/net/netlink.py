"""Requests to the kernel over netlink(7).

For single lookups at accept: a library that lists everything takes forty times as long.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

ROUTE = 0
SOCK_DIAG = 4
NETFILTER = 12

# linux/netlink.h
ACK, CREATE = 0x4, 0x400
_DUMP = 0x300
_REQUEST = 1  # NLM_F_REQUEST
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_SOL_NETLINK, _STRICT = 270, 12  # NETLINK_GET_STRICT_CHK: the kernel filters what it lists
_NESTED = 0x8000

_TIMEOUT = 1.0
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ERRNO = struct.Struct("=i")  # negative
_ATTRIBUTE = struct.Struct("=HH")  # length, type


def ask(family: int, kind: int, body: bytes, flags: int = 0) -> bytes | None:
    """Send ``body`` as a message of ``kind``; return the body of the reply, or None on ENOENT.

    An acknowledgement (with ``ACK``) is an empty reply. Raises OSError: the kernel's error, or TimeoutError
    without a reply.
    """
    with _opened(family) as netlink:
        netlink.sendto(_message(kind, body, flags), (0, 0))
        ((answered, answer),) = list(_messages(netlink.recv(65536)))[:1]
    return _unless_error(answer) if answered == _ERROR else answer


def dump(family: int, kind: int, body: bytes) -> list[bytes]:
    """Return the bodies of all objects of ``kind`` that match ``body``. Raises as ``ask``."""
    found: list[bytes] = []
    with _opened(family) as netlink:
        netlink.setsockopt(_SOL_NETLINK, _STRICT, 1)
        netlink.sendto(_message(kind, body, _DUMP), (0, 0))
        while True:
            for answered, answer in _messages(netlink.recv(65536)):
                if answered == _DONE:
                    return found
                if answered == _ERROR:
                    _unless_error(answer)
                    return found
                found.append(answer)


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    """Encode an attribute that contains attributes."""
    return attribute(_NESTED | kind, value)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each attribute in ``data``."""
    while data:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & ~_NESTED, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]


def _opened(family: int) -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
    netlink.settimeout(_TIMEOUT)
    return netlink


def _message(kind: int, body: bytes, flags: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message in a datagram."""
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[(size + 3) & ~3 :]


def _unless_error(answer: bytes) -> bytes | None:
    number = -_ERRNO.unpack_from(answer)[0]
    if number == 0:
        return b""
    if number == errno.ENOENT:
        return None
    raise OSError(number, os.strerror(number))

"""One question to the kernel and its one answer, over netlink(7).

For single look-ups at the moment of accept: a library that lists everything takes forty times as long.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

SOCK_DIAG = 4
NETFILTER = 12

_TIMEOUT = 1.0
_REQUEST = 1  # NLM_F_REQUEST
_ERROR = 2  # NLMSG_ERROR
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ERRNO = struct.Struct("=i")  # negative


def ask(family: int, kind: int, body: bytes) -> bytes | None:
    """Send ``body`` as a message of ``kind``; the body of the answer, or None when there is no such thing.

    Raises OSError: the kernel's, or TimeoutError when it stays silent.
    """
    message = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.sendto(message, (0, 0))
        reply = netlink.recv(65536)
    answer = reply[_HEADER.size :]
    if _HEADER.unpack_from(reply)[1] != _ERROR:
        return answer
    number = -_ERRNO.unpack_from(answer)[0]
    if number == errno.ENOENT:
        return None
    raise OSError(number, os.strerror(number))

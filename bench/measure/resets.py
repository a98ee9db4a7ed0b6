"""Reset TCP connections of this network namespace from outside, like ``ss --kill`` (sock_diag(7)).

The local owner of the connection gets ``ECONNABORTED``, the peer RST. As a program it resets a lane of a
daemon each time that a given number of bytes has left through an interface; it prints a line for each, and
exits after the last. A connection in its handshake is not a lane yet.
"""

from __future__ import annotations

import argparse
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tunnel.daemon.control_socket import ask_status
from tunnel.net import netlink

_BY_FAMILY, _DESTROY = 20, 21  # linux/sock_diag.h
_REQUEST = struct.Struct("=BBBBI48s")  # family, protocol, extensions, padding, states, id: linux/inet_diag.h
_ID = slice(4, 52)  # the id in a reply
_SOURCE = struct.Struct("!H")  # port in an id
_DESTINATION = struct.Struct("!2xH16x4s")  # port and IPv4 address in an id
_ESTABLISHED = 1 << 1
_LOOK = 0.004  # seconds
_DEVICES = Path("/proc/self/net/dev")
_SENT = 8  # index of the column after the colon with the bytes sent


def connections(port: int, host: str = "") -> list[bytes]:
    """Return the established IPv4 connections to ``port`` of any address, or of ``host``.

    Each is an argument for ``reset``. Raises OSError.
    """
    asked = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ESTABLISHED, b"")
    found = (answer[_ID] for answer in netlink.dump(netlink.SOCK_DIAG, _BY_FAMILY, asked))
    return sorted(each for each in found if _leads_to(each, port, host))


def reset(connection: bytes) -> bool:
    """Reset a connection; return whether it still existed. Raises OSError, also without permission."""
    asked = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ESTABLISHED, connection)
    return netlink.ask(netlink.SOCK_DIAG, _DESTROY, asked, netlink.ACK) is not None


def _leads_to(connection: bytes, port: int, host: str) -> bool:
    its_port, its_host = _DESTINATION.unpack_from(connection)
    return bool(its_port == port and host in ("", socket.inet_ntoa(its_host)))


def lanes(control: Path, port: int) -> list[bytes]:
    """Return the connections to ``port`` that are lanes of the daemon at ``control``. Raises TunnelError."""
    links = ask_status(control)["links"]
    ours = {int(lane["local"].rpartition(":")[2]) for link in links for lane in link["lanes"]}
    return [each for each in connections(port) if _SOURCE.unpack_from(each)[0] in ours]


def each_time(sent: Callable[[], int], every: int, among: Callable[[], list[bytes]]) -> Iterator[int]:
    """Reset the first connection of ``among()`` each time ``sent()`` has grown by ``every``.

    Yields the number of resets so far.
    """
    count, due = 0, sent() + every
    while True:
        if sent() >= due and any(map(reset, among()[:1])):
            count, due = count + 1, sent() + every
            yield count
        time.sleep(_LOOK)


def sent_by(interface: str) -> int:
    """Return the bytes sent by ``interface``. Raises OSError when there is no such interface."""
    for line in _DEVICES.read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == interface:
            return int(figures.split()[_SENT])
    raise OSError(f"no such interface: {interface}")


def main() -> None:
    """Reset lanes as given on the command line."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.resets", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("control", type=Path, help="the daemon's control socket")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--every", type=int, required=True, help="bytes")
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    sent, among = partial(sent_by, arguments.interface), partial(lanes, arguments.control, arguments.port)
    for count in each_time(sent, arguments.every, among):
        print(count, flush=True)
        if count == arguments.count:
            return


if __name__ == "__main__":
    main()

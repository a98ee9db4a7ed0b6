"""Streams that stand still: callers who send all that is taken of them, and a target that never reads.

``fill`` opens its connections, sends until nothing is taken for a second (or so many single bytes on each),
and says what was taken (one JSON object: ``sent``). It then waits for the end of its standard input.
``hold`` is the target.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from contextlib import suppress

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.host.descriptors import raise_limit

QUIET = 1.0
"""Seconds without a byte taken after which all stand still."""

_PIECE = memoryview(bytes(1 << 20))
_PAUSE = 0.003  # seconds between two bytes of a stream: a pump gathers what comes within 1 ms


def fill(socks: list[socket.socket]) -> int:
    """Send on all of them until none takes anything; how many bytes they took."""
    sent, last = 0, time.monotonic()
    while time.monotonic() - last < QUIET:
        before = sent
        for sock in socks:
            with suppress(BlockingIOError):
                sent += sock.send(_PIECE)
        if sent > before:
            last = time.monotonic()
        else:
            time.sleep(0.01)
    return sent


def drip(socks: list[socket.socket], bytes_each: int) -> int:
    """Send single bytes on all of them in turn, so that each becomes a frame; how many bytes they took."""
    sent = 0
    for _ in range(bytes_each):
        due = time.monotonic() + _PAUSE
        for sock in socks:
            with suppress(BlockingIOError):
                sent += sock.send(b"x")
        time.sleep(max(0.0, due - time.monotonic()))
    return sent


def call(endpoint: ProgramAddress, streams: int) -> list[socket.socket]:
    """Open the connections, which do not block."""
    socks = []
    for _ in range(streams):
        sock = endpoint.connect()
        sock.setblocking(False)
        if not endpoint.is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
    return socks


def hold(endpoint: ProgramAddress) -> None:
    """Accept, and read nothing, for ever."""
    with endpoint.listen() as server:
        held = []
        while True:
            held.append(server.accept()[0])


def main() -> None:
    """Be one of the two, as the command line says."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.stalls", description=__doc__)
    parser.add_argument("role", choices=["fill", "hold"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--streams", type=int, default=255)
    parser.add_argument("--bytes", type=int, default=0, help="on each, one by one; 0: all that goes in")
    arguments = parser.parse_args()
    raise_limit()
    if arguments.role == "hold":
        hold(arguments.endpoint)
    socks = call(arguments.endpoint, arguments.streams)
    sent = drip(socks, arguments.bytes) if arguments.bytes else fill(socks)
    print(json.dumps({"sent": sent}), flush=True)
    sys.stdin.read()
    for sock in socks:
        sock.close()


if __name__ == "__main__":
    main()

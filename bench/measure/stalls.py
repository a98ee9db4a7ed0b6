"""Stalled streams: clients that send as much as is accepted, and a target that never reads.

``fill`` opens its connections, sends until nothing is accepted for a second (or a number of single bytes on
each), and prints the accepted bytes (one JSON object: ``sent``). It then waits for EOF on standard input.
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
"""Seconds without an accepted byte after which all streams count as stalled."""

_PIECE = memoryview(bytes(1 << 20))
_PAUSE = 0.003  # seconds between two bytes of a stream: a pump coalesces data within 1 ms


def fill(socks: list[socket.socket]) -> int:
    """Send on all sockets until none accepts more; return how many bytes they accepted."""
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
    """Send single bytes on all sockets in turn, so that each becomes a frame; return the accepted bytes."""
    sent = 0
    for _ in range(bytes_each):
        due = time.monotonic() + _PAUSE
        for sock in socks:
            with suppress(BlockingIOError):
                sent += sock.send(b"x")
        time.sleep(max(0.0, due - time.monotonic()))
    return sent


def call(endpoint: ProgramAddress, streams: int) -> list[socket.socket]:
    """Open non-blocking connections."""
    socks = []
    for _ in range(streams):
        sock = endpoint.connect()
        sock.setblocking(False)
        if not endpoint.is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
    return socks


def hold(endpoint: ProgramAddress) -> None:
    """Accept connections forever, without reading."""
    with endpoint.listen() as server:
        held = []
        while True:
            held.append(server.accept()[0])


def main() -> None:
    """Run the role that the command line selects."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.stalls", description=__doc__)
    parser.add_argument("role", choices=["fill", "hold"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--streams", type=int, default=255)
    parser.add_argument("--bytes", type=int, default=0, help="single bytes on each stream; 0: until full")
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

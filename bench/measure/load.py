"""The load: a source and a sink, two small processes that only move bytes.

One transfer on one connection is a big-endian u64 count, that many bytes, and one byte back from the sink
when it has received the last of them. So the time includes delivery, the count is checked by the sink, and
nothing depends on half-close, which several relays do not support. A connection carries many transfers: the
warm-up and the timed one use the same.

The rig controls the source through its standard input, one JSON object a line (``rig.Source`` is the other
end): ``{"transfer": BYTES}`` returns ``{"seconds": S}``; ``{"flood": SECONDS}`` sends as much as is accepted
in that time, on every connection, and returns ``{"accepted": BYTES}``; ``{"ping": COUNT}`` makes that many
small requests on the first connection, one after the other, and returns ``{"round_trips": [SECONDS, …]}``.
A request is also a transfer: 64 bytes in one send, and one byte back. EOF on standard input ends the source.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from tunnel.bench.measure.endpoint import ProgramAddress

BUFFER_SIZE = 1 << 20
_COUNT = struct.Struct("!Q")
_ACK = b"\x06"
_ENDLESS = (1 << 64) - 1
_REQUEST = _COUNT.pack(64 - _COUNT.size) + bytes(64 - _COUNT.size)
_PING_PAUSE = 0.001  # seconds between two requests, so that even a fast relay is idle before each
_READY_SECONDS = 20.0  # timeout until a freshly started relay carries a byte
_ATTEMPT_SECONDS = 5.0


def run_sink(endpoint: ProgramAddress, pace: float, stalled: int | None = None) -> None:
    """Receive from every connection, forever.

    With ``pace`` above 0 only one byte every ``pace`` seconds is read from the first ``stalled`` connections,
    or from all.
    """
    slowly = partial(_receive_slowly, pace=pace)
    with endpoint.listen() as server:
        for number in itertools.count():
            connection, _ = server.accept()
            slow = pace and (stalled is None or number < stalled)
            receive = slowly if slow else _receive_transfers
            threading.Thread(target=_serve, args=(connection, receive), daemon=True).start()


def _serve(connection: socket.socket, receive: Callable[[socket.socket], None]) -> None:
    # A relay that is stopped resets its connections: this ends the load and is not an error.
    with connection, suppress(ConnectionError):
        receive(connection)


def _receive_transfers(connection: socket.socket) -> None:
    buffer = memoryview(bytearray(BUFFER_SIZE))
    while (count := _receive_count(connection)) is not None:
        _receive_exactly(connection, buffer, count)
        connection.sendall(_ACK)


def _receive_count(connection: socket.socket) -> int | None:
    """Return the announced number of bytes, or None when the source has closed the connection."""
    header = connection.recv(_COUNT.size, socket.MSG_WAITALL)
    return int(_COUNT.unpack(header)[0]) if len(header) == _COUNT.size else None


def _receive_exactly(connection: socket.socket, buffer: memoryview, count: int) -> None:
    while count:
        received = connection.recv_into(buffer, min(count, BUFFER_SIZE))
        if not received:
            raise ConnectionError(f"the stream ended {count} bytes early")
        count -= received


def _receive_slowly(connection: socket.socket, *, pace: float) -> None:
    _receive_first_transfer(connection)
    while connection.recv(1):
        time.sleep(pace)


def _receive_first_transfer(connection: socket.socket) -> None:
    # The source tests the path through the relay with a transfer of one byte before any measurement.
    if count := _receive_count(connection):
        _receive_exactly(connection, memoryview(bytearray(BUFFER_SIZE)), count)
        connection.sendall(_ACK)


def run_source(endpoint: ProgramAddress, streams: int) -> None:
    """Open ``streams`` connections, test each, then execute the commands on standard input until EOF."""
    buffer = memoryview(os.urandom(BUFFER_SIZE))
    connections = [_connect(endpoint) for _ in range(streams)]
    _answer({"streams": streams})
    with ThreadPoolExecutor(streams) as pool:
        for line in sys.stdin:
            command = json.loads(line)
            if "transfer" in command:
                _answer({"seconds": _transfer(pool, connections, buffer, command["transfer"])})
            elif "ping" in command:
                _answer({"round_trips": _ping(connections[0], command["ping"])})
            else:
                flood = partial(_flood, buffer=buffer, seconds=command["flood"])
                _answer({"accepted": sum(pool.map(flood, connections))})


def _connect(endpoint: ProgramAddress) -> socket.socket:
    """Retry to connect until the sink acknowledges a transfer of one byte: then the relay is ready."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        connection = None
        try:
            connection = endpoint.connect()
            connection.settimeout(_ATTEMPT_SECONDS)
            _send_transfer(connection, memoryview(b"\0"), 1)
        except OSError:
            if connection is not None:
                connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            connection.settimeout(None)
            return connection


def _transfer(
    pool: ThreadPoolExecutor, connections: list[socket.socket], buffer: memoryview, count: int
) -> float:
    """Send ``count`` bytes, split over the connections; return the seconds until the last acknowledgement."""
    share, rest = divmod(count, len(connections))
    counts = [share + (index < rest) for index in range(len(connections))]
    started = time.monotonic()
    for _ in pool.map(lambda connection, part: _send_transfer(connection, buffer, part), connections, counts):
        pass
    return time.monotonic() - started


def _send_transfer(connection: socket.socket, buffer: memoryview, count: int) -> None:
    connection.sendall(_COUNT.pack(count))
    while count:
        count -= connection.send(buffer[: min(count, len(buffer))])
    if connection.recv(1) != _ACK:
        raise ConnectionError("connection closed before the sink acknowledged the last byte")


def _ping(connection: socket.socket, count: int) -> list[float]:
    """Make ``count`` sequential requests; return the seconds that each took."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    round_trips = []
    for _ in range(count):
        time.sleep(_PING_PAUSE)
        started = time.monotonic()
        connection.sendall(_REQUEST)
        if connection.recv(1) != _ACK:
            raise ConnectionError("connection closed before the sink replied to a request")
        round_trips.append(time.monotonic() - started)
    return round_trips


def _flood(connection: socket.socket, buffer: memoryview, seconds: float) -> int:
    """Send an endless transfer for ``seconds``; return how many bytes were accepted."""
    connection.sendall(_COUNT.pack(_ENDLESS))
    accepted = 0
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        with suppress(TimeoutError):
            accepted += connection.send(buffer)
    return accepted


def _answer(message: Mapping[str, float | list[float]]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    """Run the source or the sink, as selected on the command line."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.load", description=__doc__)
    parser.add_argument("role", choices=["source", "sink"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--stalled", type=int)
    arguments = parser.parse_args()
    if arguments.role == "sink":
        run_sink(arguments.endpoint, arguments.pace, arguments.stalled)
    else:
        run_source(arguments.endpoint, arguments.streams)


if __name__ == "__main__":
    main()

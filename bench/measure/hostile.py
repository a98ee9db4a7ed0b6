"""A compromised peer: it has a valid certificate, and floods its link with frames that the protocol allows.

One process; when the daemon closes its lane, or refuses it, it reconnects, at the rate of
:mod:`tunnel.bench.measure.callers`. Data is prepared in advance where possible. The reply to each line on
standard input is one JSON object: ``frames`` that were sent so far, and ``lanes`` that were made; EOF ends
the process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from itertools import count, islice
from pathlib import Path

from OpenSSL import SSL

from tunnel.bench.measure.callers import PER_MINUTE
from tunnel.bench.measure.raw_peer import PATIENCE, HungUp, RawPeer, client_context
from tunnel.records.key_schedule import Direction
from tunnel.records.record_sealer import RecordSealer
from tunnel.records.tls_messages import DATA
from tunnel.tls import contexts
from tunnel.tls.contexts import TlsFiles
from tunnel.tls.openssl import TlsConnection, WantRead
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import VERSION, Code, Feature
from tunnel.wire.frames import (
    ControlFrame,
    Credit,
    Frame,
    Hello,
    Limits,
    Open,
    Opened,
    Ping,
    Probe,
    Reset,
    Resume,
)
from tunnel.wire.reassembly import PAGE

STREAMS = 255
"""Number of streams of ``SPARSE``."""

_AT_ONCE = 20_000  # frames of a block
_UPDATES = 40  # the daemon closes a lane at 33
_MUCH = 1 << 30
_LATE = 0.1  # seconds of delayed connections to catch up


class Kind(StrEnum):
    """The kind of flood."""

    PING = "ping"
    DATA = "tiny-data"
    CREDIT = "credit"
    OPEN = "open-reset"
    PROBE = "probe"
    KEY_UPDATE = "key-update"
    HELLO = "hello"
    RESUME = "resume"
    SPARSE = "sparse-data"


@dataclass
class Tally:
    """Counters of frames and lanes so far."""

    frames: int = 0
    lanes: int = 0


@dataclass(frozen=True)
class PeerAccess:
    """Access to the daemon: ``address`` (``IP:PORT``), from ``source``, as the peer of ``files``."""

    address: str
    files: TlsFiles
    target: str
    source: str = ""

    def connect(self) -> RawPeer:
        """Open a lane. Raises OSError."""
        return RawPeer(self.address, self._context, self.source)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return client_context(self.files)

    @cached_property
    def plain_records(self) -> SSL.Context:
        """The TLS context for a connection whose records are built here."""
        return contexts.client_context(self.files)


def greeting() -> Hello:
    """Return the HELLO of a daemon that has just started."""
    features = Feature.RESUME | Feature.PROBE
    return Hello(VERSION, VERSION, features, os.urandom(16), os.urandom(16), Limits(16, _MUCH))


def run(kind: Kind, way: PeerAccess, tally: Tally) -> None:
    """Flood forever."""
    due = time.monotonic()
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic() - _LATE) + 60 / PER_MINUTE
        with suppress(OSError, HungUp):
            if kind is Kind.KEY_UPDATE:
                _update_keys(way, tally)
                continue
            with way.connect() as peer:
                tally.lanes += 1
                _FLOODS[kind](peer, way.target, tally)


# -- over a permanent lane --------------------------------------------------------------------------------


def _pings(peer: RawPeer, _: str, tally: Tally) -> None:
    peer.greet(greeting())
    _repeat(peer, encode(Ping(7)) * _AT_ONCE, tally)


def _credits(peer: RawPeer, target: str, tally: Tally) -> None:
    peer.greet(greeting())
    _open(peer, 1, target)
    _repeat(peer, encode(Credit(1, 0, 1 << 40)) * _AT_ONCE, tally)


def _tiny_data(peer: RawPeer, target: str, tally: Tally) -> None:
    """Send frames of one byte, first as new data, then as in a replay, which the daemon drops one by one."""
    peer.greet(greeting())
    most = min(_AT_ONCE, _open(peer, 1, target))
    _repeat(peer, b"".join(data_header(1, at, 1) + b"x" for at in range(most)), tally, most)


def _repeat(peer: RawPeer, block: bytes, tally: Tally, frames: int = _AT_ONCE) -> None:
    while True:
        peer.send_raw(block)
        tally.frames += frames


def _open(peer: RawPeer, stream: int, target: str) -> int:
    """Open a stream; return its initial credit in bytes."""
    peer.send(Open(stream, 1 << 40, target))
    answer = peer.receive()
    if not isinstance(answer, Opened):
        raise ConnectionError(f"expected OPENED, received {answer}")
    return answer.limit


def _opens(peer: RawPeer, target: str, tally: Tally) -> None:
    def pairs() -> Iterator[ControlFrame]:
        for stream in count(1, 2):
            yield Open(stream, 1 << 40, target)
            yield Reset(stream, Code.LOCAL_RESET, "")

    _as_credited(peer, pairs(), tally)


def _probes(peer: RawPeer, target: str, tally: Tally) -> None:
    _as_credited(peer, (Probe(target) for _ in count()), tally)


def _as_credited(peer: RawPeer, frames: Iterator[ControlFrame], tally: Tally) -> None:
    """Send as many as the credit allows, acknowledging the replies."""
    limit, obeyed = peer.greet(greeting()).limits.control, 0
    while True:
        batch = list(islice(frames, limit - peer.sequence))
        peer.send(*batch, Credit(0, obeyed, obeyed + _MUCH))
        tally.frames += len(batch)
        while limit <= peer.sequence:
            frame: Frame = peer.next_frame()
            obeyed += isinstance(frame, ControlFrame)
            if isinstance(frame, Credit) and frame.stream == 0:
                limit = frame.limit


def _sparse_data(peer: RawPeer, target: str, tally: Tally) -> None:
    """Send one byte in each page of all windows, all after a gap, so that none is delivered; then wait."""
    peer.greet(greeting())
    for stream in range(1, 2 * STREAMS, 2):
        places = range(1, _open(peer, stream, target), PAGE)
        peer.send_raw(b"".join(data_header(stream, at, 1) + b"x" for at in places))
        tally.frames += len(places)
    while True:
        peer.next_frame()
        peer.send(Ping(7))


# -- a new lane for each frame ----------------------------------------------------------------------------


def _hellos(peer: RawPeer, _: str, tally: Tally) -> None:
    peer.send(greeting())
    tally.frames += 1
    peer.receive()


def _resumes(peer: RawPeer, _: str, tally: Tally) -> None:
    peer.send(Resume(os.urandom(16), 2, 1, 0, 1024, ()))
    tally.frames += 1
    peer.receive()


def _update_keys(way: PeerAccess, tally: Tally) -> None:
    """Send more KeyUpdates that request one in return than a lane accepts."""
    host, _, port = way.address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE, (way.source, 0)) as sock:
        connection = _shake_hands(sock, way.plain_records)
        tally.lanes += 1
        sealer = RecordSealer(connection.cipher, Direction(connection.secrets["CLIENT_TRAFFIC_SECRET_0"], 0))
        records = [
            sealer.record(DATA, encode(greeting())),
            *(sealer.update(asking=True) for _ in range(_UPDATES)),
        ]
        sock.sendall(b"".join(records))
        tally.frames += len(records)
        while sock.recv(1 << 16):
            pass


def _shake_hands(sock: socket.socket, context: SSL.Context) -> TlsConnection:
    connection = TlsConnection(context, dialing=True)
    while True:
        try:
            connection.handshake()
        except WantRead:
            sock.sendall(connection.flight())
            if not (data := sock.recv(1 << 16)):
                raise ConnectionError("refused in the handshake") from None
            connection.feed(data)
        except SSL.Error as error:
            raise ConnectionError(str(error)) from error
        else:
            sock.sendall(connection.flight())
            return connection


_FLOODS: dict[Kind, Callable[[RawPeer, str, Tally], None]] = {
    Kind.PING: _pings,
    Kind.DATA: _tiny_data,
    Kind.CREDIT: _credits,
    Kind.OPEN: _opens,
    Kind.PROBE: _probes,
    Kind.HELLO: _hellos,
    Kind.RESUME: _resumes,
    Kind.SPARSE: _sparse_data,
}


def main() -> None:
    """Run the flood of the command line until EOF on standard input."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.hostile", description=__doc__)
    parser.add_argument("kind", type=Kind)
    parser.add_argument("address", help="IP:PORT of the daemon")
    parser.add_argument("--source", default="", help="source IP address")
    parser.add_argument("--target", required=True, help="a target that the daemon allows for this peer")
    for file in ("ca", "cert", "key"):
        parser.add_argument(f"--{file}", type=Path, required=True)
    arguments = parser.parse_args()
    files = TlsFiles(arguments.ca, arguments.cert, arguments.key)
    way, tally = PeerAccess(arguments.address, files, arguments.target, arguments.source), Tally()
    threading.Thread(target=run, args=(arguments.kind, way, tally), daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(asdict(tally)), flush=True)


if __name__ == "__main__":
    main()

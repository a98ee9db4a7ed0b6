"""Many peers with one lane each and no streams, in one process: they only keep their sessions alive.

Each has its own certificate, loopback address, session and keepalive, as a daemon without streams has. They
dial the daemon, or wait until it dials them. A peer that loses its lane dials again, a second later. With
``--skew`` their clocks differ, which spreads their PINGs (``tunnel.wire.keepalive.aligned``). The reply to
each line on standard input is one JSON object (``Counts``); EOF ends the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.raw_peer import client_context
from tunnel.certs.pair_files import Pair
from tunnel.errors import WireError
from tunnel.host.descriptors import raise_limit
from tunnel.tls.contexts import TlsFiles
from tunnel.wire import negotiation
from tunnel.wire.codec import encode
from tunnel.wire.codes import ALPN
from tunnel.wire.frames import Frame, GoAway, Hello, Pong, Welcome
from tunnel.wire.keepalive import aligned
from tunnel.wire.lane_protocol import LaneProtocol
from tunnel.wire.session import DEFAULT_LIMITS
from tunnel.wire.states import LaneState

CA = "ca"
MOST = 10_000
"""Most peers: as many as there are addresses for."""

_AT_ONCE = 256  # handshakes
_BACKLOG = 4
_RETRY = 1.0  # seconds
_HANDSHAKE = 30.0  # seconds
_PER_SUBNET = 250


def name_of(number: int) -> str:
    """Return the host name of peer ``number``, from 0."""
    return f"peer{number}"


def address_of(number: int) -> str:
    """Return the loopback address of peer ``number``, in 127.1.0.0/16."""
    return f"127.1.{number // _PER_SUBNET}.{number % _PER_SUBNET + 1}"


@dataclass
class Counts:
    """Lanes that are ``up``, lanes that were ``lost`` or refused, and ``replies`` to the peers' PINGs."""

    up: int = 0
    lost: int = 0
    replies: int = 0


class IdlePeer(asyncio.Protocol):
    """One lane of a peer, from its TLS handshake to its end.

    ``dialing``: this end sends HELLO. ``ahead``: by how many seconds the peer's clock is ahead.
    """

    def __init__(self, counts: Counts, *, dialing: bool, ahead: float = 0.0) -> None:
        self.ended = asyncio.Event()
        self._counts = counts
        self._dialing = dialing
        self._ahead = ahead
        state = LaneState.AWAIT_WELCOME if dialing else LaneState.AWAIT_FIRST
        self._lane = LaneProtocol(state, time.monotonic())
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a session, if this end dialed."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a TLS connection
        self._transport = transport
        if self._dialing:
            offer = negotiation.hello(os.urandom(16), os.urandom(16), DEFAULT_LIMITS)
            transport.write(encode(offer))

    def data_received(self, data: bytes) -> None:
        """Process frames; an invalid one ends the connection."""
        now, position = time.monotonic(), 0
        self._lane.keepalive.heard_at = now
        try:
            while position < len(data):
                taken, frame = self._lane.feed(data[position:], now)
                position += taken
                if frame is not None:
                    self._obey(frame)
        except WireError:
            self._abort()
            return
        self._send(self._lane.pong())

    def _obey(self, frame: Frame) -> None:
        match frame:
            case Hello():
                self._send(encode(negotiation.welcome(frame, os.urandom(16), DEFAULT_LIMITS)))
                self._attach()
            case Welcome():
                self._attach()
            case Pong():
                self._counts.replies += 1
            case GoAway():
                self._abort()

    def _attach(self) -> None:
        self._lane.attach()
        self._counts.up += 1
        self._keep()

    def _keep(self) -> None:
        """Send the PING that is due, and call this again when the next one is."""
        now = time.monotonic()
        if self._lane.keepalive.silent(now):
            self._abort()
            return
        self._send(self._lane.poll(now, idle=True))
        clock = time.time() + self._ahead  # noqa: TID251  a clock that all hosts share
        pause = aligned(self._lane.keepalive.wake_at - now, clock)
        self._timer = asyncio.get_running_loop().call_later(pause, self._keep)

    def _send(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the loss."""
        if self._timer is not None:
            self._timer.cancel()
        self._counts.up -= self._lane.attached
        self._counts.lost += 1
        self._transport = None
        self.ended.set()


class Peers:
    """All peers, whose certificates are in the directory ``pki``, by ``name_of``."""

    def __init__(self, pki: Path, links: int, counts: Counts, skew: float = 0.0) -> None:
        self._pki = pki
        self._skew = skew
        self._links = links
        self._counts = counts
        self._handshakes = asyncio.Semaphore(_AT_ONCE)

    async def dial(self, daemon: ProgramAddress) -> None:
        """Keep a lane of each peer to ``daemon``. Never returns."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._links):
                tasks.create_task(self._keep_dialing(daemon, number))

    async def _keep_dialing(self, daemon: ProgramAddress, number: int) -> None:
        context = client_context(self._files(number))
        while True:
            peer = IdlePeer(self._counts, dialing=True, ahead=self._ahead(number))
            try:
                async with self._handshakes, asyncio.timeout(_HANDSHAKE):
                    await asyncio.get_running_loop().create_connection(
                        partial(_same, peer),
                        daemon.host,
                        daemon.port,
                        ssl=context,
                        server_hostname="",
                        local_addr=(address_of(number), 0),
                    )
            except (OSError, TimeoutError):
                self._counts.lost += 1
            else:
                await peer.ended.wait()
            await asyncio.sleep(_RETRY)

    async def listen(self, port: int) -> None:
        """Accept lanes at ``port`` of the address of each peer, from hosts with a certificate of the CA."""
        for number in range(self._links):
            context, ahead = _server_context(self._files(number)), self._ahead(number)
            await asyncio.get_running_loop().create_server(
                partial(IdlePeer, self._counts, dialing=False, ahead=ahead),
                address_of(number),
                port,
                ssl=context,
                backlog=_BACKLOG,
            )

    def _ahead(self, number: int) -> float:
        return self._skew * number / self._links

    def _files(self, number: int) -> TlsFiles:
        pair = Pair.named(self._pki, name_of(number))
        return TlsFiles(Pair.named(self._pki, CA).cert, pair.cert, pair.key)


def _same(peer: IdlePeer) -> IdlePeer:
    return peer


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.cert, files.key)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([ALPN])
    return context


async def _serve(arguments: argparse.Namespace) -> None:
    counts, ended = Counts(), asyncio.Event()
    peers = Peers(arguments.pki, arguments.links, counts, arguments.skew)
    asyncio.get_running_loop().add_reader(sys.stdin, _reply, counts, ended)
    if arguments.listen:
        await peers.listen(arguments.listen)
        await ended.wait()
        return
    dialing = asyncio.create_task(peers.dial(arguments.dial))
    await ended.wait()
    dialing.cancel()
    with suppress(asyncio.CancelledError):
        await dialing


def _reply(counts: Counts, ended: asyncio.Event) -> None:
    if not sys.stdin.readline():
        ended.set()
        return
    print(json.dumps(asdict(counts)), flush=True)


def main(words: Iterable[str] | None = None) -> None:
    """Run the peers of the command line until EOF on standard input."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.idle_peers", description=__doc__)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--dial", type=ProgramAddress.parse, help="IP:PORT of the daemon")
    way.add_argument("--listen", type=int, help="port of all peers")
    parser.add_argument("--pki", type=Path, required=True, help="directory of the certificates")
    parser.add_argument("--links", type=int, required=True, help="number of peers")
    parser.add_argument("--skew", type=float, default=0.0, help="seconds over which their clocks are spread")
    raise_limit()
    asyncio.run(_serve(parser.parse_args(None if words is None else list(words))))


if __name__ == "__main__":
    main()

"""The network between two lanes, controlled by the test.

``tcp_pair`` is a plain loopback connection. A ``Cable`` is a network segment that can be frozen, cut, or flip
a bit. A ``TlsPeer`` is a TLS endpoint that is not a lane, so that it can send anything.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from tests.support.waiting import PATIENCE
from tunnel.net.sockets import reset, tune_lane
from tunnel.tls.contexts import ALPN, TlsContexts, TlsFiles
from tunnel.wire.frames import Frame
from tunnel.wire.lane_protocol import Decoder

CONGESTION = "reno"  # every kernel has it; the default of some paces even on loopback


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return the dialing and the accepting end of a loopback connection, both tuned to be lanes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialing = socket.create_connection(listener.getsockname())
        accepting, _ = listener.accept()
    tune_lane(dialing, CONGESTION)
    tune_lane(accepting, CONGESTION)
    return dialing, accepting


def _foreign(files: TlsFiles, *, dialing: bool) -> ssl.SSLContext:
    """Return a context of Python's ssl: the peer of our lanes in tests is another implementation."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if dialing else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


class TlsPeer:
    """The other end of a lane, controlled by the test. Close it with ``close``, ``reset`` or close_notify."""

    def __init__(self, sock: socket.socket, contexts: TlsContexts, *, dialing: bool) -> None:
        self.sock = sock
        self.frames: list[Frame] = []  # all received frames, DATA without its payload
        self.payload = bytearray()  # of all streams, in order of arrival
        self.received = 0  # bytes on the wire, TLS included
        self.payload_before: list[int] = []  # for each frame, the payload bytes received before it
        self.ending = ""  # how the connection ended: "close_notify", "cut" or "reset"
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _foreign(contexts.files, dialing=dialing).wrap_bio(
            self._incoming, self._outgoing, server_side=not dialing
        )
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, sock: socket.socket, contexts: TlsContexts, *, dialing: bool) -> TlsPeer:
        """Perform the TLS handshake over a connected socket; return the peer."""
        peer = cls(sock, contexts, dialing=dialing)
        async with asyncio.timeout(PATIENCE):
            await peer._shake_hands()
        return peer

    async def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                cipher = await self._loop.sock_recv(self.sock, 1 << 16)
                if not cipher:
                    raise ConnectionError("connection closed during the handshake") from None
                self._incoming.write(cipher)
            except ssl.SSLError:
                await self._flush()  # the alert
                raise
            else:
                await self._flush()
                self._decrypt()  # data that arrived with the end of the handshake
                return

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self.sock, self._outgoing.read())

    async def send(self, plain: bytes, record: int = 1 << 20) -> None:
        """Send ``plain``, in TLS records of at most ``record`` bytes, with one call."""
        await self.send_raw(self.encrypt(plain, record))

    def encrypt(self, plain: bytes, record: int = 1 << 20) -> bytes:
        """Return the TLS records that carry ``plain``, to be sent in this order."""
        for start in range(0, len(plain), record):
            self._tls.write(plain[start : start + record])
        return self._outgoing.read()

    async def send_raw(self, cipher: bytes) -> None:
        """Send raw bytes."""
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.sock, cipher)

    async def read_until(self, condition: Callable[[], object]) -> None:
        """Read until ``condition()``. Raises AssertionError when the connection ends before."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert not self.ending, f"connection closed ({self.ending}), received {self.frames}"
                await self._read()

    async def read_to_end(self) -> None:
        """Read until the connection ends."""
        async with asyncio.timeout(PATIENCE):
            while not self.ending:
                await self._read()

    def count(self, kind: type[Frame]) -> int:
        """Return the number of frames of ``kind`` so far."""
        return len(self.all(kind))

    def all(self, kind: type[Frame]) -> list[Frame]:
        """Return the frames of ``kind`` so far."""
        return [frame for frame in self.frames if isinstance(frame, kind)]

    async def _read(self) -> None:
        try:
            cipher = await self._loop.sock_recv(self.sock, 1 << 18)
        except ConnectionError:
            self.ending = "reset"
            return
        if not cipher:
            self.ending = self.ending or "cut"
            return
        self.received += len(cipher)
        self._incoming.write(cipher)
        self._decrypt()

    def _decrypt(self) -> None:
        with suppress(ssl.SSLWantReadError):
            while plain := self._tls.read(1 << 16):
                self._take(memoryview(plain))
            self.ending = "close_notify"

    def _take(self, plain: memoryview) -> None:
        while plain:
            if self._decoder.payload_left:
                count = min(self._decoder.payload_left, len(plain))
                self.payload += plain[:count]
                self._decoder.moved(count)
            else:
                count, frame = self._decoder.feed(plain)
                if frame is not None:
                    self.payload_before.append(len(self.payload))
                    self.frames.append(frame)
            plain = plain[count:]

    # Endings.

    async def say_close_notify(self) -> None:
        """Send close_notify, without GOAWAY."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    def reset(self) -> None:
        """Close with RST."""
        reset(self.sock)

    def close(self) -> None:
        """Close with FIN, without close_notify."""
        self.sock.close()


class Cable:
    """A network segment between two sockets that it owns, of the dialing and of the accepting side."""

    def __init__(self, dialing_side: socket.socket, accepting_side: socket.socket) -> None:
        self.passed = [0, 0]  # bytes so far, from the dialing and from the accepting side
        self.flip_at: int | None = None  # one bit changes in this byte from the dialing side
        self._socks = (dialing_side, accepting_side)
        self._loop = asyncio.get_running_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks = [
            asyncio.create_task(self._carry(number), name=f"cable {number}") for number in range(2)
        ]

    def freeze(self) -> None:
        """Stop passing data, without notice to either side."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass data again."""
        self._flowing.set()

    async def cut(self) -> None:
        """Close both sides with FIN, possibly inside of a record."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._socks:
            sock.close()

    async def _carry(self, direction: int) -> None:
        source, sink = self._socks[direction], self._socks[1 - direction]
        with suppress(OSError):
            while data := await self._loop.sock_recv(source, 50_000):
                await self._flowing.wait()
                await self._loop.sock_sendall(sink, self._spoilt(direction, data))
                self.passed[direction] += len(data)
            sink.shutdown(socket.SHUT_WR)

    def _spoilt(self, direction: int, data: bytes) -> bytes:
        start = self.passed[direction]
        if direction or self.flip_at is None or not start <= self.flip_at < start + len(data):
            return data
        spoilt = bytearray(data)
        spoilt[self.flip_at - start] ^= 1
        return bytes(spoilt)


def cabled_pair() -> tuple[socket.socket, Cable, socket.socket]:
    """Return two ends as ``tcp_pair`` does, with a cable between them."""
    dialing, dialing_side = tcp_pair()
    accepting_side, accepting = tcp_pair()
    return dialing, Cable(dialing_side, accepting_side), accepting

"""A peer that may violate the protocol: valid TLS, and arbitrary frames or bytes."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Self

from tunnel.tls.contexts import TlsFiles
from tunnel.wire.codec import encode, parse, parse_header
from tunnel.wire.codes import ALPN, HEADER_SIZE, VERSION, Feature, FrameType
from tunnel.wire.frames import ControlFrame, Credit, Data, Frame, GoAway, Hello, Limits, Ping, Pong, Welcome

PATIENCE = 30.0
"""Timeout in seconds of a connection here."""

HELLO = Hello(VERSION, VERSION, Feature.RESUME, b"s" * 16, b"i" * 16, Limits(16, 1024))


class HungUp(Exception):  # noqa: N818  it names the event
    """The daemon closed the connection without GOAWAY."""


def client_context(files: TlsFiles | None, alpn: str | None = ALPN) -> ssl.SSLContext:
    """Return a context without verification: only the verification by the daemon is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


class RawPeer:
    """A TLS connection to a daemon's port ``IP:PORT``, from the IP address ``source``, "" for any.

    Raises OSError (of which SSLError is one) when that fails.
    """

    def __init__(self, address: str, context: ssl.SSLContext, source: str = "") -> None:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE, (source, 0)) as sock:
            self._tls = context.wrap_socket(sock, suppress_ragged_eofs=False)
        self.sequence = 0  # of the next frame of the control channel

    def send(self, *frames: Frame) -> None:
        """Send frames; those of the control channel get the next sequence number."""
        self.send_raw(b"".join(map(self._encode, frames)))

    def _encode(self, frame: Frame) -> bytes:
        data = encode(frame, self.sequence)
        self.sequence += isinstance(frame, ControlFrame)
        return data

    def send_raw(self, data: bytes) -> None:
        """Send arbitrary bytes."""
        self._tls.sendall(data)

    def next_frame(self) -> Frame:
        """Return the next frame; for DATA only the header, its payload is dropped."""
        header = parse_header(self._exactly(HEADER_SIZE))
        payload = self._exactly(header.length)
        if header.type is FrameType.DATA:
            return Data(header.stream, header.offset, header.length)
        return parse(header, payload)

    def receive(self) -> Frame:
        """Return the next frame that is neither keepalive nor credit."""
        while isinstance(frame := self.next_frame(), Ping | Pong | Credit):
            pass
        return frame

    def greet(self, hello: Hello = HELLO) -> Welcome:
        """Start a session with HELLO; return the WELCOME."""
        self.send(hello)
        answer = self.receive()
        if not isinstance(answer, Welcome):
            raise ConnectionError(f"expected WELCOME, received {answer}")
        return answer

    def goodbye(self) -> GoAway:
        """Receive up to GOAWAY, and the end of the connection after it; return the GOAWAY."""
        while not isinstance(frame := self.receive(), GoAway):
            pass
        if self._tls.recv(1):
            raise ConnectionError("received data after GOAWAY")
        return frame

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self._tls.recv(count - len(data))
            if not chunk:
                raise HungUp
            data += chunk
        return data

    def hang_up(self) -> None:
        """Shut the connection down, also for another thread that is sending."""
        with suppress(OSError):
            self._tls.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._tls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

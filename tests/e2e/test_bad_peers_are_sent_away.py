"""A configured peer that violates the protocol gets GOAWAY with the reason, and no other peer is affected."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemons import Host, TwoHosts, until
from tests.support.streams import Target, connect, exchange, receive
from tunnel.bench.measure.raw_peer import HELLO, RawPeer, client_context
from tunnel.daemon.config import Transport
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import MAX_DATA, Code, Feature, FrameType
from tunnel.wire.frames import Credit, Fin, Hello, Limits, Open, Opened, Position, Resume, Resumed

STREAMS = Transport.model_fields["streams"].default
"""The default limit of open streams per peer."""

Misdeed = Callable[[RawPeer, str], None]


def header(kind: int, stream: int = 0, length: int = 0, *, flags: int = 0, reserved: int = 0) -> bytes:
    return struct.pack("!BBHIIQ", kind, flags, reserved, stream, length, 0)


FIRST: dict[str, tuple[bytes, Code]] = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: hostb\r\n\r\n", Code.FRAME_TYPE),
    "zeros": (bytes(64), Code.FRAME_TYPE),
    "unknown type": (header(99), Code.FRAME_TYPE),
    "flags": (header(FrameType.HELLO, length=56, flags=1), Code.PROTOCOL),
    "reserved bits": (header(FrameType.HELLO, length=56, reserved=1), Code.PROTOCOL),
    "short HELLO": (header(FrameType.HELLO, length=3), Code.FRAME_SIZE),
    "endless HELLO": (header(FrameType.HELLO, length=0xFFFF_FFFF), Code.FRAME_SIZE),
    "HELLO on a stream": (header(FrameType.HELLO, stream=1, length=56), Code.PROTOCOL),
    "a later version": (
        encode(Hello(7, 9, Feature.NONE, bytes(16), bytes(16), Limits(1, 1))),
        Code.VERSION,
    ),
    "PING before HELLO": (header(FrameType.PING), Code.HANDSHAKE),
    "OPEN before HELLO": (encode(Open(1, 0, "tcp:127.0.0.1:1")), Code.HANDSHAKE),
    "DATA before HELLO": (data_header(1, 0, 1) + b"x", Code.HANDSHAKE),
    "RESUMED unasked": (encode(Resumed(bytes(16), 2, 1, 0, 1, ())), Code.HANDSHAKE),
    "RESUME of nothing": (encode(Resume(bytes(16), 2, 1, 0, 1, ())), Code.SESSION_UNKNOWN),
    "RESUME with invented positions": (
        encode(Resume(bytes(16), 2, 1, 0, 1, (Position(1, 5, 5, 5),))),
        Code.SESSION_UNKNOWN,
    ),
}


def opened(peer: RawPeer, target: str) -> Opened:
    peer.send(Open(1, 1 << 20, target))
    answer = peer.receive()
    assert isinstance(answer, Opened), answer
    return answer


def data_behind_the_window(peer: RawPeer, target: str) -> None:
    limit = opened(peer, target).limit
    peer.send_raw(data_header(1, limit, 1) + b"x")


def data_across_the_window(peer: RawPeer, target: str) -> None:
    limit = opened(peer, target).limit
    peer.send_raw(data_header(1, limit - 1, 2) + b"xx")


def data_at_the_last_offset(peer: RawPeer, target: str) -> None:
    opened(peer, target)
    peer.send_raw(data_header(1, 0xFFFF_FFFF_FFFF_FFFF, 1) + b"x")


def data_behind_the_end(peer: RawPeer, target: str) -> None:
    opened(peer, target)
    peer.send_raw(data_header(1, 0, 2) + b"xx")
    peer.send(Fin(1, 4))
    peer.send_raw(data_header(1, 2, 3) + b"yyy")


def end_before_the_data(peer: RawPeer, target: str) -> None:
    opened(peer, target)
    peer.send_raw(data_header(1, 0, 4) + b"xxxx")
    peer.send(Fin(1, 2))


def second_end(peer: RawPeer, target: str) -> None:
    opened(peer, target)
    peer.send(Fin(1, 0), Fin(1, 0))


def credit_for_bytes_never_sent(peer: RawPeer, target: str) -> None:
    opened(peer, target)
    peer.send(Credit(1, 1000, 2000))


def more_streams_than_allowed(peer: RawPeer, target: str) -> None:
    peer.send(*(Open(2 * index + 1, 0, "unix:/nobody/listens/here") for index in range(STREAMS + 1)))


DURING: dict[str, tuple[Misdeed, Code]] = {
    "second HELLO": (lambda peer, _: peer.send(HELLO), Code.HANDSHAKE),
    "RESUME on an attached lane": (
        lambda peer, _: peer.send(Resume(HELLO.session, 2, 1, 0, 1, ())),
        Code.HANDSHAKE,
    ),
    "oversized DATA": (
        lambda peer, _: peer.send_raw(data_header(1, 0, MAX_DATA + 1)),
        Code.FRAME_SIZE,
    ),
    "empty DATA": (lambda peer, _: peer.send_raw(data_header(1, 0, 0)), Code.FRAME_SIZE),
    "DATA of the lane": (lambda peer, _: peer.send_raw(data_header(0, 0, 1)), Code.PROTOCOL),
    "DATA on no stream": (
        lambda peer, _: peer.send_raw(data_header(7, 0, 1) + b"x"),
        Code.STREAM_STATE,
    ),
    "FIN on no stream": (lambda peer, _: peer.send(Fin(7, 0)), Code.STREAM_STATE),
    "CREDIT on no stream": (lambda peer, _: peer.send(Credit(7, 0, 1)), Code.STREAM_STATE),
    "OPEN with the other side's number": (
        lambda peer, _: peer.send(Open(2, 0, "tcp:127.0.0.1:1")),
        Code.STREAM_STATE,
    ),
    "OPEN twice": (
        lambda peer, target: peer.send(Open(1, 0, target), Open(1, 0, target)),
        Code.STREAM_STATE,
    ),
    "OPEN without text": (
        lambda peer, _: peer.send_raw(header(FrameType.OPEN, 1, 10) + bytes(8) + b"\xff\xfe"),
        Code.PROTOCOL,
    ),
    "frame far ahead": (
        lambda peer, _: peer.send_raw(encode(Fin(1, 0), 1 << 40)),
        Code.FLOW_CONTROL,
    ),
    "DATA behind the window": (data_behind_the_window, Code.FLOW_CONTROL),
    "DATA across the window": (data_across_the_window, Code.FLOW_CONTROL),
    "DATA at the last offset": (data_at_the_last_offset, Code.FLOW_CONTROL),
    "DATA behind the end": (data_behind_the_end, Code.PROTOCOL),
    "FIN before the data": (end_before_the_data, Code.PROTOCOL),
    "second FIN": (second_end, Code.STREAM_STATE),
    "CREDIT for nothing": (credit_for_bytes_never_sent, Code.FLOW_CONTROL),
    "too many streams": (more_streams_than_allowed, Code.STREAM_LIMIT),
}


@pytest.fixture
def culprit(hosts: TwoHosts) -> Host:
    """A third host, a configured peer of b; it runs no daemon."""
    third = hosts.another("hostc", "127.0.0.5")
    hosts.b.knows(third)
    hosts.b.egress["hostc"] += ["unix:/nobody/listens/here"]
    return third


def test_each_violation_ends_in_goaway_and_affects_no_other_peer(
    hosts: TwoHosts, culprit: Host, target: Target, tmp: Path
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    with Target(tmp / "culprit.sock") as reachable:
        hosts.b.egress["hostc"] += [reachable.address]
        hosts.start()
        with connect(entry) as caller, target.accept() as called:
            for name, (data, code) in FIRST.items():
                with RawPeer(hosts.b.address, client_context(culprit.files)) as peer:
                    peer.send_raw(data)
                    assert peer.goodbye().code is code, name
                    exchange(caller, called)
            for name, (misdeed, code) in DURING.items():
                with RawPeer(hosts.b.address, client_context(culprit.files)) as peer:
                    peer.greet()
                    misdeed(peer, reachable.address)
                    answer = peer.goodbye()
                    assert answer.code is code, f"{name}: {answer}"
                    exchange(caller, called)
                until(lambda: hosts.b.link(culprit)["state"] == "down", "for the link to go down")
        assert hosts.a.link(hosts.b)["resumes"] == 0
    for reason in ("unknown frame type 71", "data outside the window", f"more than {STREAMS} streams"):
        hosts.b.wait_log(f"peer=hostc.*{reason}")


def test_a_culprit_is_served_again_without_violations(hosts: TwoHosts, culprit: Host, tmp: Path) -> None:
    with Target(tmp / "culprit.sock") as reachable:
        hosts.b.egress["hostc"] += [reachable.address]
        hosts.b.start()
        hosts.b.wait_serving()
        with RawPeer(hosts.b.address, client_context(culprit.files)) as peer:
            peer.send_raw(b"nonsense" * 100)
            peer.goodbye()
        with RawPeer(hosts.b.address, client_context(culprit.files)) as peer:
            peer.greet()
            opened(peer, reachable.address)
            peer.send_raw(data_header(1, 0, 5) + b"hello")
            with reachable.accept() as called:
                assert receive(called, 5) == b"hello"


def test_streams_of_a_culprit_are_reset(hosts: TwoHosts, culprit: Host, target: Target) -> None:
    hosts.b.egress["hostc"] += [target.address]
    hosts.b.start()
    hosts.b.wait_serving()
    with RawPeer(hosts.b.address, client_context(culprit.files)) as peer:
        peer.greet()
        opened(peer, target.address)
        with target.accept() as called:
            peer.send(Fin(9, 0))
            assert peer.goodbye().code is Code.STREAM_STATE
            with pytest.raises(ConnectionResetError):
                called.recv(1)
    assert any("FIN on stream 9, which was never opened" in each for each in hosts.b.reasons(culprit))

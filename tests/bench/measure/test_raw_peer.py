"""The raw peer against a daemon: it sends and receives frames like any peer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tunnel.bench.measure.raw_peer import HELLO, HungUp, RawPeer, client_context
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Ping, Pong, Probe, Verdict


@pytest.fixture
def hosts(tmp: Path) -> Iterator[TwoHosts]:
    with TwoHosts(tmp) as two:
        two.b.start()
        two.b.wait_serving()
        yield two


def test_frames_are_numbered_answered_and_sorted(hosts: TwoHosts) -> None:
    with RawPeer(hosts.b.address, client_context(hosts.a.files), "127.0.0.9") as peer:
        hello = replace(HELLO, features=Feature.RESUME | Feature.PROBE)
        assert peer.greet(hello).session == HELLO.session
        (lane,) = hosts.b.link(hosts.a)["lanes"]
        assert lane["remote"].startswith("127.0.0.9:")
        peer.send(Probe("tcp:127.0.0.1:1"), Ping(5), Probe("tcp:127.0.0.1:2"))
        assert peer.sequence == 2
        for _ in range(2):
            answer = peer.receive()  # which skips PONG
            assert isinstance(answer, Verdict)
            assert answer.code is Code.TARGET_FORBIDDEN
        peer.send(Ping(6))
        while (frame := peer.next_frame()) != Pong(6):
            assert not isinstance(frame, Verdict)
        peer.send_raw(bytes(20))
        assert peer.goodbye().code is Code.FRAME_TYPE


def test_an_end_without_goaway_is_distinguished(hosts: TwoHosts) -> None:
    with RawPeer(hosts.b.address, client_context(hosts.a.files)) as peer:
        peer.greet()
        hosts.b.kill()
        with pytest.raises((HungUp, OSError)):
            peer.goodbye()


def test_a_reply_other_than_welcome_is_an_error(hosts: TwoHosts) -> None:
    with RawPeer(hosts.b.address, client_context(hosts.a.files)) as peer:
        peer.send_raw(bytes(20))
        with pytest.raises(OSError, match="expected WELCOME"):
            peer.greet()


def test_a_refused_connection_is_an_error(hosts: TwoHosts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ConnectionRefusedError):
        RawPeer(address, client_context(None))

"""Measured paths carry payload from end to end unchanged, as lanes do.

The kernel path runs here on plain sockets; ``test_emulated_kernel`` runs it with encryption.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.compiled_engine import compiled_engine
from tests.support.lanepaths import carried
from tunnel.errors import LaneError
from tunnel.lanes import kernel_payload, kernel_tls
from tunnel.lanes.lane_paths import FRAME, KernelPath, LanePath, UserspacePath, made_up_keys
from tunnel.records.key_schedule import SUITES, Keys
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB, MIB
from tunnel.wire.codes import HEADER_SIZE

SUITE = next(iter(SUITES))
PAYLOAD = os.urandom(3 * MIB + 12_345)
MAKERS: dict[str, Callable[[], LanePath]] = {
    "python": partial(UserspacePath, SUITE),
    "compiled": partial(UserspacePath, SUITE, compiled_engine()),
    "kernel": partial(KernelPath, SUITE),
}

each_path = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> list[Keys]:
    """Use plain sockets for kernel lanes; return the keys that they would use."""
    keys: list[Keys] = []
    monkeypatch.setattr(kernel_tls, "enable", lambda sock, given: keys.append(given))
    return keys


@each_path
def test_payload_arrives_unchanged(kind: str) -> None:
    carried(MAKERS[kind](), PAYLOAD)


@each_path
@pytest.mark.parametrize("size", [1, 4093, FRAME, FRAME + 1])
def test_any_size_arrives_whole(kind: str, size: int) -> None:
    carried(MAKERS[kind](), PAYLOAD[:size])


@each_path
def test_without_bytes_nothing_moves(kind: str) -> None:
    path = MAKERS[kind]()
    assert not path.send()
    assert not path.receive()
    assert not path.wait(0)
    assert (path.taken, path.delivered) == (0, 0)
    path.close()


@each_path
def test_a_sink_that_does_not_read_stops_everything_and_nothing_is_lost(kind: str) -> None:
    path, written, got, still = MAKERS[kind](), 0, b"", 0
    content = PAYLOAD * 8
    while still < 100:
        with suppress(BlockingIOError):
            written += path.source.send(content[written : written + MIB])
        moved = path.send()
        moved = path.receive() or moved
        still = 0 if moved else still + 1
    assert path.delivered < path.taken <= written < len(content)
    while len(got) < written:
        with suppress(BlockingIOError):
            got += path.sink.recv(MIB)
        path.send()
        path.receive()
    assert got == content[:written]
    path.close()


def descriptors() -> set[Path]:
    kernel_payload._nowhere()  # opened once, and stays open
    return set(Path("/proc/self/fd").iterdir())


@each_path
def test_closing_releases_every_descriptor(kind: str) -> None:
    gc.collect()  # descriptors of earlier tests must not be closed meanwhile
    before = descriptors()
    path = MAKERS[kind]()
    assert len(descriptors()) > len(before)
    path.close()
    del path
    assert descriptors() == before


def test_a_lane_that_cannot_encrypt_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket, keys: Keys) -> None:
        raise LaneError("kernel TLS is not available")

    monkeypatch.setattr(kernel_tls, "enable", refuse)
    before = descriptors()
    with pytest.raises(LaneError, match="kernel TLS is not available"):
        KernelPath(SUITE)
    assert descriptors() == before


@each_path
def test_a_closed_connection_is_an_error(kind: str) -> None:
    path = MAKERS[kind]()
    path._out.shutdown(socket.SHUT_WR)
    path.wait(5)
    with pytest.raises(LaneError, match="closed without GOAWAY"):
        path.receive()
    path.close()


@pytest.mark.parametrize("kind", ["python", "compiled"])
def test_changed_bytes_are_an_error(kind: str) -> None:
    path = MAKERS[kind]()
    path._out.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    path.wait(5)
    with pytest.raises(LaneError, match="TLS"):
        path.receive()
    path.close()


def test_a_header_may_come_in_pieces() -> None:
    path = KernelPath(SUITE)
    header = bytes([19]) + bytes(3)
    path._out.send(header)
    path.wait(5)
    assert path.receive()
    assert path._header == header
    assert len(header) < HEADER_SIZE
    path.close()


@pytest.mark.parametrize("suite", SUITES)
def test_both_ends_have_the_same_keys_and_each_connection_its_own(suite: str) -> None:
    one, other = made_up_keys(suite)
    assert one.cipher == other.cipher == suite
    assert (one.send, one.receive) == (other.receive, other.send)
    assert one.send.secret != one.receive.secret != made_up_keys(suite)[0].receive.secret
    assert len(one.send.secret) == SUITES[suite].hash.digest_size


def test_the_kernel_gets_the_keys_of_both_ends(plain: list[Keys]) -> None:
    path = KernelPath(SUITE)
    path.close()
    assert [keys.cipher for keys in plain] == [SUITE, SUITE]
    assert plain[0].send == plain[1].receive
    assert (path.kind, UserspacePath.kind) == (LaneKind.KERNEL, LaneKind.USERSPACE)
    assert FRAME == 256 * KIB

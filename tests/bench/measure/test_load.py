"""Source and sink: every byte counted, one or many streams, and a slow sink."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.rig import Rig, Source, load_command
from tunnel.units import MIB


@pytest.fixture
def rig(tmp: Path) -> Iterator[Rig]:
    with Rig(tmp) as started:
        yield started


@pytest.fixture(params=["tcp", "unix"])
def endpoint(request: pytest.FixtureRequest, tmp: Path) -> ProgramAddress:
    return free_tcp("127.0.0.1") if request.param == "tcp" else ProgramAddress(path=str(tmp / "sink.sock"))


@pytest.mark.parametrize("streams", [1, 3])
def test_transfers_follow_each_other_on_the_same_connections(
    rig: Rig, endpoint: ProgramAddress, streams: int
) -> None:
    rig.start_sink(endpoint)
    source = rig.start_source(endpoint, streams=streams)
    for size in (1, MIB + 1, 5 * MIB):
        assert 0 < source.transfer(size, timeout=20) < 20
    source.close()


def _read(connection: socket.socket, count: int) -> bytes:
    connection.settimeout(10)
    with connection.makefile("rb") as file:
        return file.read(count)


def _count(number: int) -> bytes:
    return struct.pack("!Q", number)


def _with_sink(rig: Rig) -> socket.socket:
    endpoint = free_tcp("127.0.0.1")
    rig.start_sink(endpoint)
    return endpoint.connect()


def test_the_sink_acknowledges_the_last_byte_and_none_before(rig: Rig) -> None:
    with _with_sink(rig) as connection:
        connection.sendall(_count(3) + b"ab")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"c")
        assert _read(connection, 1) == b"\x06"


def test_unannounced_bytes_are_not_part_of_a_transfer(rig: Rig) -> None:
    with _with_sink(rig) as connection:
        connection.sendall(_count(1) + b"a" + _count(2) + b"bc")
        assert _read(connection, 2) == b"\x06\x06"


def test_the_sink_outlives_a_connection_that_breaks(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    sink = rig.start_sink(endpoint)
    with endpoint.connect() as connection:
        connection.sendall(_count(100) + b"ab")
    assert rig.start_source(endpoint).transfer(MIB, timeout=20) > 0
    sink.check()


def test_the_source_tries_again_until_the_relay_carries(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen() as server:
        server.settimeout(20)
        source = Source(rig.start("source", load_command("source", endpoint), talks=True))
        server.accept()[0].close()  # a relay whose other side is not up yet
        with _prove(server):
            assert source.hear(timeout=20) == {"streams": 1}


def test_a_transfer_that_is_cut_is_an_error(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen() as server:
        server.settimeout(20)
        source = Source(rig.start("source", load_command("source", endpoint), talks=True))
        with _prove(server):
            source.hear(timeout=20)
        with pytest.raises(BenchError, match=r"source exited(.|\n)*(BrokenPipe|Connection)"):
            source.transfer(64 * MIB, timeout=20)


def _prove(server: socket.socket) -> socket.socket:
    """Acknowledge the transfer of one byte with which a source starts."""
    connection, _ = server.accept()
    assert _read(connection, 9) == _count(1) + b"\0"
    connection.sendall(b"\x06")
    return connection


def test_every_request_of_a_ping_is_measured(rig: Rig, endpoint: ProgramAddress) -> None:
    rig.start_sink(endpoint)
    source = rig.start_source(endpoint)
    round_trips = source.ping(5, timeout=20)
    assert len(round_trips) == 5
    assert all(0 < seconds < 20 for seconds in round_trips)
    assert source.transfer(MIB, timeout=20) > 0  # the connection is still usable


def test_a_request_is_one_small_segment(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen() as server:
        server.settimeout(20)
        source = Source(rig.start("source", load_command("source", endpoint), talks=True))
        with _prove(server) as connection:
            source.hear(timeout=20)
            source.say({"ping": 1})
            connection.settimeout(20)
            assert connection.recv(4096) == _count(56) + bytes(56)
            connection.sendall(b"\x06")
            assert len(source.ping(0, timeout=20)) == 1  # the reply to the previous ping


def test_a_source_replies_when_a_transfer_has_ended_and_not_before(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    with endpoint.listen() as server:
        server.settimeout(20)
        source = Source(rig.start("source", load_command("source", endpoint), talks=True))
        with _prove(server) as connection:
            source.hear(timeout=20)
            source.begin(3)
            assert len(_read(connection, 11)) == 11
            assert not source.has_answered()
            connection.sendall(b"\x06")
            assert source.hear(timeout=20)["seconds"] > 0


def test_only_the_first_connections_of_a_sink_stall(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    rig.start_sink(endpoint, pace=60.0, stalled=1)
    stalled = rig.start_source(endpoint)
    assert rig.start_source(endpoint).transfer(32 * MIB, timeout=20) > 0
    stalled.flood(0.1)
    assert 0 < stalled.hear(timeout=20)["accepted"] < 32 * MIB


def test_with_a_slow_sink_only_the_buffers_fill(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.1")
    rig.start_sink(endpoint, pace=0.05)
    source = rig.start_source(endpoint)
    source.flood(0.5)
    accepted = source.hear(timeout=20)["accepted"]
    assert 0 < accepted < 64 * MIB  # a fast sink receives gigabytes in this time

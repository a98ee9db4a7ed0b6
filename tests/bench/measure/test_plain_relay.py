"""The plain relay: both directions, half-close, and independent connections."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.rig import Rig
from tunnel.units import MIB


@pytest.fixture
def rig(tmp: Path) -> Iterator[Rig]:
    with Rig(tmp) as started:
        yield started


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest, tmp: Path) -> tuple[ProgramAddress, ProgramAddress]:
    if request.param == "unix":
        return ProgramAddress(path=str(tmp / "in.sock")), ProgramAddress(path=str(tmp / "out.sock"))
    return free_tcp("127.0.0.2"), free_tcp("127.0.0.1")


def _relay(rig: Rig, ends: tuple[ProgramAddress, ProgramAddress]) -> ProgramAddress:
    entry, out = ends
    program = rig.start(
        "plain", [sys.executable, "-m", "tunnel.bench.measure.plain_relay", str(entry), str(out)]
    )
    program.wait_listening(entry)
    return entry


def test_bytes_arrive_and_are_acknowledged(rig: Rig, ends: tuple[ProgramAddress, ProgramAddress]) -> None:
    rig.start_sink(ends[1])
    source = rig.start_source(_relay(rig, ends), streams=3)
    assert source.transfer(5 * MIB + 1, timeout=20) > 0


def test_eof_is_passed_on_in_each_direction(rig: Rig, ends: tuple[ProgramAddress, ProgramAddress]) -> None:
    with ends[1].listen() as server:
        server.settimeout(20)
        with _relay(rig, ends).connect() as near, server.accept()[0] as far:
            near.sendall(b"question")
            near.shutdown(socket.SHUT_WR)
            with far.makefile("rb") as file:
                assert file.read() == b"question"
            far.sendall(b"answer")
            far.shutdown(socket.SHUT_WR)
            with near.makefile("rb") as file:
                assert file.read() == b"answer"


def test_it_continues_after_a_connection_without_a_target(
    rig: Rig, ends: tuple[ProgramAddress, ProgramAddress]
) -> None:
    entry = _relay(rig, ends)
    with entry.connect() as lost:
        assert lost.recv(1) == b""
    rig.start_sink(ends[1])
    assert rig.start_source(entry).transfer(MIB, timeout=20) > 0

"""Stalled streams: as much as is accepted is sent, or single bytes, and nothing is read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.bench.measure import stalls
from tunnel.bench.measure.endpoint import free_tcp
from tunnel.bench.measure.rig import Rig, Source
from tunnel.bench.measure.stalls import drip, fill
from tunnel.units import MIB


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        yield one, other


def test_as_much_as_is_accepted_is_sent(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "QUIET", 0.05)
    one, other = pair
    sent = fill([one])
    assert sent > 0
    with pytest.raises(BlockingIOError):
        one.send(bytes(MIB))
    assert len(other.recv(sent + 1, socket.MSG_WAITALL | socket.MSG_DONTWAIT)) == sent


def test_single_bytes_are_sent_one_by_one() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.setblocking(False)
        assert drip([one], 3) == 3
        assert [other.recv(10) for _ in range(3)] == [b"x"] * 3


def test_streams_are_held_until_eof_on_the_input(tmp: Path) -> None:
    endpoint = free_tcp("127.0.0.1")
    with Rig(tmp) as rig:
        target = rig.start_module("hold", "stalls", "hold", endpoint)
        command = [*Rig.module("stalls", "fill", endpoint), "--streams=3", "--bytes=2"]
        filler = Source(rig.start("fill", command, talks=True))
        assert filler.hear(20) == {"sent": 6}
        assert filler.program.process.poll() is None
        filler.close()
        rig.stop(target)
        assert target.process.poll() is not None

"""The relay on aiofastnet: mutual TLS 1.3, every byte, and bounded memory."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.bench.served import client_context, is_served
from tunnel.bench.measure.asyncio_relay import RelaySide
from tunnel.bench.measure.endpoint import free_tcp
from tunnel.bench.measure.fastnet import TURN, FastnetEnd, FastnetEntry, connect
from tunnel.bench.measure.program import Program
from tunnel.bench.measure.relay_commands import fastnet
from tunnel.bench.measure.rig import Rig
from tunnel.bench.measure.site import Site, lay_out
from tunnel.units import MIB


@pytest.fixture
def rig(tmp: Path) -> Iterator[Rig]:
    with Rig(tmp) as started:
        yield started


def _side_b(rig: Rig, site: Site) -> Program:
    b = rig.start("b", fastnet(site).b)
    b.wait_listening(site.link)
    return b


@pytest.mark.parametrize("unix_legs", [False, True], ids=["tcp", "unix"])
def test_bytes_arrive(rig: Rig, tmp: Path, unix_legs: bool) -> None:
    site = lay_out(tmp, "cubic", unix_legs=unix_legs)
    rig.start_sink(site.exit)
    _side_b(rig, site)
    rig.start("a", fastnet(site).a).wait_listening(site.entry)
    assert rig.start_source(site.entry, streams=2).transfer(3 * MIB, timeout=30) > 0


def test_a_stalled_sink_stops_the_source(rig: Rig, tmp: Path) -> None:
    """Data sent meanwhile stays in kernel buffers: neither side grows."""
    site = lay_out(tmp, "cubic", unix_legs=True)
    rig.start_sink(site.exit, pace=1.0)
    sides = [_side_b(rig, site), rig.start("a", fastnet(site).a)]
    sides[1].wait_listening(site.entry)
    source = rig.start_source(site.entry)
    before = [side.memory().now for side in sides]
    source.flood(2.0)
    assert source.hear(30)["accepted"] > 0
    grown = [side.memory().now - size for side, size in zip(sides, before, strict=True)]
    assert max(grown) < 8 * MIB


def test_a_peer_with_a_certificate_is_served(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    rig.start_sink(site.exit)
    _side_b(rig, site)
    assert is_served(site, client_context(site))


def test_a_peer_without_a_certificate_is_refused(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    rig.start_sink(site.exit)
    _side_b(rig, site)
    assert not is_served(site, client_context(site, certificate=False))


def test_tls_1_2_is_refused(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    rig.start_sink(site.exit)
    _side_b(rig, site)
    context = client_context(site)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not is_served(site, context)


class FakeTransport:
    """Records its method calls."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.sent = bytearray()

    def write(self, data: memoryview) -> None:
        self.sent += data

    def set_write_buffer_limits(self, high: int) -> None:
        self.said.append(f"high {high}")

    def pause_reading(self) -> None:
        self.said.append("pause")

    def resume_reading(self) -> None:
        self.said.append("resume")

    def close(self) -> None:
        self.said.append("close")

    def abort(self) -> None:
        self.said.append("abort")


def _ends() -> tuple[FastnetEnd, FastnetEnd, FakeTransport, FakeTransport]:
    a, b, left, right = FastnetEnd(), FastnetEnd(), FakeTransport(), FakeTransport()
    a.other, b.other = b, a
    a.connection_made(cast("asyncio.Transport", left))
    b.connection_made(cast("asyncio.Transport", right))
    return a, b, left, right


async def test_buffered_data_of_one_pauses_the_other() -> None:
    _, b, left, right = _ends()
    b.pause_writing()
    b.resume_writing()
    assert left.said == ["high 1", "pause", "resume"]
    assert right.said == ["high 1"]


def test_data_that_one_reads_is_sent_by_the_other() -> None:
    a, _, _, right = _ends()
    buffer = a.get_buffer(-1)
    assert len(buffer) == TURN
    buffer[:5] = b"hello"
    a.buffer_updated(5)
    assert right.sent == b"hello"


async def test_records_that_are_not_decrypted_yet_are_read_on_resume() -> None:
    _, b, left, _ = _ends()
    opened = asyncio.Event()
    left._retry_ssl_read = opened.set  # type: ignore[attr-defined]
    b.resume_writing()
    assert left.said[-1] == "resume"
    await asyncio.wait_for(opened.wait(), 30)


def test_data_that_comes_with_the_end_of_the_handshake_is_served(rig: Rig, tmp: Path) -> None:
    """Side B has read it from the socket before it could dial, and no more data follows."""
    site = lay_out(tmp, "cubic")
    rig.start_sink(site.exit)
    _side_b(rig, site)
    context = client_context(site)
    context.load_verify_locations(site.ca)
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_hostname="hostb")
    with site.link.connect() as raw:
        while not _is_shaken(tls):
            raw.sendall(to_send.read())
            received.write(raw.recv(65536))
        tls.write(b"\0" * 7 + b"\1x")
        raw.sendall(to_send.read())
        while not (answer := _read(tls)):
            received.write(raw.recv(65536))
    assert answer == b"\x06"


def _is_shaken(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _read(tls: ssl.SSLObject) -> bytes:
    try:
        return tls.read(1)
    except ssl.SSLWantReadError:
        return b""


def test_both_connections_close_together() -> None:
    a, _, _, right = _ends()
    assert not a.eof_received()
    a.connection_lost(None)
    assert right.said[-1] == "close"


def _side(site: Site) -> RelaySide:
    return RelaySide(
        False, site.link, free_tcp("127.0.0.1"), site.ca, site.pair_b.cert, site.pair_b.key, "hosta"
    )


async def test_a_connection_without_a_target_is_aborted(tmp: Path) -> None:
    entry, accepted = FastnetEntry(_side(lay_out(tmp, "cubic"))), FakeTransport()
    entry.connection_made(cast("asyncio.Transport", accepted))
    assert entry.dialing is not None
    with pytest.raises(ConnectionRefusedError):
        await entry.dialing
    assert accepted.said == ["high 1", "pause", "abort"]


async def test_connecting_to_a_missing_side_fails(tmp: Path) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(_side(lay_out(tmp, "cubic")), FastnetEnd())

"""The asyncio relay: mutual TLS 1.3, on both loops."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.bench.recipes import streams
from tunnel.bench.rig import Rig
from tunnel.bench.site import Site, lay_out

MIB = 1 << 20


@pytest.fixture
def rig(tmp: Path) -> Iterator[Rig]:
    with Rig(tmp) as started:
        yield started


def _side_b(rig: Rig, site: Site, loop: str = "asyncio") -> None:
    rig.start_sink(site.exit)
    rig.start("b", streams(site, loop=loop).b).wait_listening(site.link)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("unix_legs", [False, True], ids=["tcp", "unix"])
def test_bytes_arrive(rig: Rig, tmp: Path, loop: str, unix_legs: bool) -> None:
    site = lay_out(tmp, "cubic", unix_legs=unix_legs)
    _side_b(rig, site, loop)
    rig.start("a", streams(site, loop=loop).a).wait_listening(site.entry)
    assert rig.start_source(site.entry, streams=2).transfer(3 * MIB, timeout=30) > 0


def _is_served(site: Site, context: ssl.SSLContext) -> bool:
    """Whether a transfer of one byte over the link is acknowledged."""
    context.load_verify_locations(site.ca)
    try:
        with site.link.connect() as raw, context.wrap_socket(raw, server_hostname="hostb") as connection:
            connection.sendall(b"\0" * 7 + b"\1x")
            return connection.recv(1) == b"\x06"
    except (ssl.SSLError, ConnectionError):  # asyncio says no with an alert, an end or a reset
        return False


def test_a_peer_with_a_certificate_is_served(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    _side_b(rig, site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(site.pair_a.cert, site.pair_a.key)
    assert _is_served(site, context)


def test_a_peer_without_a_certificate_is_refused(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    _side_b(rig, site)
    assert not _is_served(site, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def test_tls_1_2_is_refused(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    _side_b(rig, site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(site.pair_a.cert, site.pair_a.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not _is_served(site, context)

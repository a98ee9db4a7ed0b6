"""The asyncio relay: mutual TLS 1.3, on both loops."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.served import client_context, is_served
from tunnel.bench.measure.relay_commands import streams
from tunnel.bench.measure.rig import Rig
from tunnel.bench.measure.site import Site, lay_out
from tunnel.units import MIB


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


def test_a_peer_with_a_certificate_is_served(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    _side_b(rig, site)
    assert is_served(site, client_context(site))


def test_a_peer_without_a_certificate_is_refused(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    _side_b(rig, site)
    assert not is_served(site, client_context(site, certificate=False))


def test_tls_1_2_is_refused(rig: Rig, tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    _side_b(rig, site)
    context = client_context(site)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not is_served(site, context)

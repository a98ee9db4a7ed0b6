"""Sources of addresses, and the addresses of peers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.support.waiting import until
from tunnel.relay import sources as module
from tunnel.relay.sources import PeerSources, source_of


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::1"),
        ("fe80::1", "fe80::1"),
        ("fe80::2%eth0", "fe80::2"),
    ],
)
def test_source_is_the_address_or_its_network(address: str, source: str) -> None:
    assert source_of(address) == source


def test_configured_address_belongs_to_its_peer() -> None:
    known = PeerSources({"hosta": "192.0.2.1", "hostb": "2001:db8::7", "hostc": "192.0.2.1"})
    assert known.peers_at("192.0.2.1") == {"hosta", "hostc"}
    assert known.peers_at(source_of("2001:db8::8")) == {"hostb"}
    assert not known.peers_at("192.0.2.2")


def test_last_address_of_a_peer_belongs_to_it_as_well() -> None:
    known = PeerSources({"hosta": "192.0.2.1"})
    known.proved("hosta", "198.51.100.1")
    assert known.peers_at("198.51.100.1") == known.peers_at("192.0.2.1") == {"hosta"}
    known.proved("hosta", "198.51.100.2")
    assert not known.peers_at("198.51.100.1"), "else a peer could add any number of addresses"


async def test_names_are_resolved_and_kept_when_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.001)
    answers: list[list[str]] = [[], ["192.0.2.1", "2001:db8::1"], [], ["192.0.2.9"]]
    asked: list[str] = []

    async def getaddrinfo(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(name)
        found = answers.pop(0) if answers else ["192.0.2.9"]
        if not found:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(0, 0, 0, "", (address, 0)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    known = PeerSources({"hosta": "hosta.example"})
    assert not known.peers_at("192.0.2.1")
    keeping = asyncio.create_task(known.keep())
    await until(lambda: known.peers_at("192.0.2.1") == {"hosta"})
    assert known.peers_at("2001:db8::/64") == {"hosta"}
    await until(lambda: known.peers_at("192.0.2.9") == {"hosta"})
    assert not known.peers_at("192.0.2.1")
    keeping.cancel()
    assert set(asked) == {"hosta.example"}


async def test_addresses_are_not_resolved() -> None:
    await asyncio.wait_for(PeerSources({"hosta": "192.0.2.1"}).keep(), 5)

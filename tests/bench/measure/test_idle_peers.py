"""Idle peers: they keep a link with a real daemon, in both directions, and dial again after a loss."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tunnel.bench.measure.idle import ACCEPTED, DIALED, Crowd, gather
from tunnel.bench.measure.idle_peers import MOST, address_of
from tunnel.bench.measure.netns import effective_congestion
from tunnel.bench.measure.rig import Rig, Source


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    return gather(tmp_path_factory.mktemp("crowd"), 3, effective_congestion())


def counts(peers: Source) -> dict[str, float]:
    peers.say({})
    return peers.hear(20)


def wait(peers: Source, **least: int) -> dict[str, float]:
    """Return the counts once they have reached ``least``; the suite's timeout ends a wait in vain."""
    while any((found := counts(peers))[key] < value for key, value in least.items()):
        pass
    return found


def test_every_peer_has_an_address() -> None:
    addresses = {ipaddress.ip_address(address_of(number)) for number in range(MOST)}
    assert len(addresses) == MOST
    assert all(address in ipaddress.ip_network("127.1.0.0/16") for address in addresses)


@pytest.mark.slow
def test_pings_are_answered_and_none_is_lost(crowd: Crowd, tmp: Path) -> None:
    with Rig(tmp) as rig:
        _, peers, _ = crowd._start(rig, ACCEPTED)
        assert wait(peers, up=3, replies=6) == {"up": 3, "lost": 0, "replies": pytest.approx(6, abs=3)}
        peers.close()


@pytest.mark.slow
@pytest.mark.parametrize("direction", [ACCEPTED, DIALED])
def test_a_lost_link_comes_up_again(crowd: Crowd, tmp: Path, direction: str) -> None:
    with Rig(tmp) as rig:
        daemon, peers, _ = crowd._start(rig, direction)
        wait(peers, up=3)
        rig.stop(daemon)
        wait(peers, lost=3)
        again = rig.start("again", crowd.command(direction, 3))
        again.wait_listening(crowd.site.link)
        wait(peers, up=3)

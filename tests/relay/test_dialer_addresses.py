"""A peer's name may resolve to several hosts: other hosts, or another daemon with the same name."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.support.dialing import World, dialling, receiving
from tests.support.links import make_link
from tests.support.waiting import until
from tunnel.lanes.base_lane import BaseLane
from tunnel.net import connect
from tunnel.relay.lane_acceptor import LaneAcceptor


async def test_address_of_another_host_is_not_tried_forever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may resolve to two hosts, of which the first one is not the peer."""

    async def resolve(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (9, 1)]

    monkeypatch.setattr(connect, "_resolve", resolve)
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    stranger = LaneAcceptor("127.0.0.9", world.port, lambda: world.other, None, {"hosta": b})
    async with receiving(world, b), dialling(a, world.plan("peer.example")):
        await until(lambda: a.lanes and b.lanes, "for the link")
    await stranger.close()
    assert "hostc" in a.incidents[0].reason


async def test_another_daemon_of_the_peers_name_cannot_end_the_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may resolve to two hosts with one certificate; the second does not have the session."""
    addresses = [1]

    async def resolve(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in addresses]

    monkeypatch.setattr(connect, "_resolve", resolve)
    a, b, copy = make_link("hosta", "hostb"), make_link("hostb", "hosta"), make_link("hostb", "hosta")
    second = LaneAcceptor("127.0.0.9", world.port, lambda: world.b, None, {"hosta": copy})
    async with receiving(world, b), dialling(a, world.plan("peer.example")):
        await until(lambda: a.lanes and b.lanes, "for the link")
        session, addresses[:] = a.session, [9, 1]
        [lane] = b.lanes.values()
        assert isinstance(lane, BaseLane)
        lane._lost("the test broke it")
        await until(lambda: a.resumes == 1, "for the link to resume")
        assert a.session is session
    await until(lambda: not second._lanes["hosta"], "for the lane that the copy refused to be gone")
    await second.close()
    assert any("has no such session" in each.reason for each in a.incidents)

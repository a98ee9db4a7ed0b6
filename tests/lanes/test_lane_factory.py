"""Creating lanes of both kinds."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.compiled_engine import compiled_engine
from tests.support.lanes import NAMES, Hosts, gone
from tests.support.network import tcp_pair
from tunnel.engine.binding import Provider
from tunnel.errors import IdentityError, LaneError
from tunnel.lanes import kernel_tls
from tunnel.lanes.lane import Lane
from tunnel.lanes.lane_factory import LaneMaker, maker
from tunnel.lanes.userspace_lane import UserspaceLane
from tunnel.records.key_schedule import Keys
from tunnel.tls.lane_kinds import LaneKind
from tunnel.wire.states import LaneState


async def made_by(make: LaneMaker, hosts: Hosts) -> tuple[Lane, Lane]:
    """Return both ends of a lane: the one with peer hostb, and the one with peer hosta."""
    dialing, accepting = tcp_pair()
    return await asyncio.gather(
        make(dialing, hosts.a, ["hostb"], LaneState.AWAIT_WELCOME, dialing=True),
        make(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
    )


@pytest.mark.parametrize("provider", [None, compiled_engine()], ids=["python", "compiled"])
async def test_lanes_are_made_with_the_engine_of_the_host(hosts: Hosts, provider: Provider | None) -> None:
    made = await made_by(maker(LaneKind.USERSPACE, provider), hosts)
    assert [(type(lane), lane.peer) for lane in made] == [(UserspaceLane, "hostb"), (UserspaceLane, "hosta")]
    assert [lane.carries for lane in made] == [provider is not None] * 2
    assert [lane.proof.peer for lane in made if lane.proof] == ["hostb", "hosta"]
    for lane in made:
        await gone(lane)


async def test_a_peer_with_another_name_gets_no_lane(hosts: Hosts) -> None:
    dialing, accepting = tcp_pair()
    make = maker(LaneKind.USERSPACE)
    with dialing, accepting:
        results = await asyncio.gather(
            make(dialing, hosts.a, ["hostc"], LaneState.AWAIT_WELCOME, dialing=True),
            make(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
            return_exceptions=True,
        )
        assert isinstance(results[0], IdentityError)
        if isinstance(results[1], Lane):
            await gone(results[1])


async def test_kernel_lanes_are_made_of_sockets_that_encrypt(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[Keys] = []
    monkeypatch.setattr(kernel_tls, "enable", lambda sock, keys: enabled.append(keys))
    made = await made_by(maker(LaneKind.KERNEL), hosts)
    assert [lane.kind for lane in made] == [LaneKind.KERNEL] * 2
    assert {keys.cipher for keys in enabled} == {lane.cipher for lane in made}
    assert len(enabled) == 2
    for lane in made:
        await gone(lane)


async def test_without_kernel_tls_no_kernel_lane_is_made(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sock: object, keys: Keys) -> None:
        raise LaneError("kernel TLS is not available")

    monkeypatch.setattr(kernel_tls, "enable", refuse)
    dialing, accepting = tcp_pair()
    make = maker(LaneKind.KERNEL)
    with dialing, accepting:
        results = await asyncio.gather(
            make(dialing, hosts.a, NAMES, LaneState.AWAIT_WELCOME, dialing=True),
            make(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
            return_exceptions=True,
        )
    assert [str(result) for result in results] == ["kernel TLS is not available"] * 2

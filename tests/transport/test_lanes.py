"""Which lanes a host makes."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.lanes import NAMES, Hosts, gone
from tests.support.network import tcp_pair
from tunnel.errors import IdentityError
from tunnel.transport.lane import Lane
from tunnel.transport.lanes import maker
from tunnel.transport.threadlane import ThreadLane
from tunnel.transport.userspace import UserspaceLane
from tunnel.wire.states import LaneState


@pytest.mark.parametrize(("lanes", "kind"), [(1, UserspaceLane), (2, ThreadLane), (16, ThreadLane)])
async def test_threads_serve_where_there_may_be_several(hosts: Hosts, lanes: int, kind: type[Lane]) -> None:
    dialing, accepting = tcp_pair()
    make = maker(lanes)
    made = await asyncio.gather(
        make(dialing, hosts.a, ["hostb"], LaneState.AWAIT_WELCOME, dialing=True),
        make(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
    )
    assert [(type(lane), lane.peer) for lane in made] == [(kind, "hostb"), (kind, "hosta")]
    for lane in made:
        await gone(lane)


async def test_whoever_is_somebody_else_gets_no_lane(hosts: Hosts) -> None:
    dialing, accepting = tcp_pair()
    with dialing, accepting:
        results = await asyncio.gather(
            maker(2)(dialing, hosts.a, ["hostc"], LaneState.AWAIT_WELCOME, dialing=True),
            maker(2)(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
            return_exceptions=True,
        )
        assert isinstance(results[0], IdentityError)
        if isinstance(results[1], Lane):
            await gone(results[1])

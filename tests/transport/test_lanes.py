"""Which lanes a host makes."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.support.lanes import NAMES, Hosts, gone
from tests.support.network import tcp_pair
from tunnel.errors import IdentityError, LaneError
from tunnel.transport import ktls
from tunnel.transport.key_schedule import Keys
from tunnel.transport.lane import Lane, LaneKind
from tunnel.transport.lanes import maker
from tunnel.transport.threadlane import ThreadLane
from tunnel.transport.userspace import UserspaceLane
from tunnel.wire.states import LaneState


@pytest.mark.parametrize(
    ("lanes", "threaded", "processors", "kind"),
    [
        (1, None, 64, UserspaceLane),
        (2, None, 3, ThreadLane),
        (16, None, 2, UserspaceLane),
        (1, True, 1, ThreadLane),
        (16, False, 64, UserspaceLane),
    ],
)
async def test_threads_serve_several_lanes_where_there_are_processors(
    hosts: Hosts,
    monkeypatch: pytest.MonkeyPatch,
    lanes: int,
    threaded: bool | None,
    processors: int,
    kind: type[Lane],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    dialing, accepting = tcp_pair()
    make = maker(lanes, threaded=threaded)
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
            maker(2, threaded=True)(dialing, hosts.a, ["hostc"], LaneState.AWAIT_WELCOME, dialing=True),
            maker(2, threaded=True)(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
            return_exceptions=True,
        )
        assert isinstance(results[0], IdentityError)
        if isinstance(results[1], Lane):
            await gone(results[1])


@pytest.mark.parametrize(("lanes", "threaded"), [(1, False), (2, True)])
async def test_kernel_lanes_are_made_of_sockets_that_encrypt(
    hosts: Hosts, lanes: int, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[Keys] = []
    monkeypatch.setattr(ktls, "enable", lambda sock, keys: enabled.append(keys))
    make = maker(lanes, LaneKind.KERNEL, threaded=threaded)
    dialing, accepting = tcp_pair()
    made = await asyncio.gather(
        make(dialing, hosts.a, ["hostb"], LaneState.AWAIT_WELCOME, dialing=True),
        make(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
    )
    assert [lane.kind for lane in made] == [LaneKind.KERNEL] * 2
    assert [isinstance(lane, ThreadLane) for lane in made] == [threaded] * 2
    assert {keys.cipher for keys in enabled} == {lane.cipher for lane in made}
    assert len(enabled) == 2
    for lane in made:
        await gone(lane)


async def test_a_kernel_that_does_not_encrypt_makes_no_lane(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sock: object, keys: Keys) -> None:
        raise LaneError("the kernel does no TLS")

    monkeypatch.setattr(ktls, "enable", refuse)
    dialing, accepting = tcp_pair()
    with dialing, accepting:
        results = await asyncio.gather(
            maker(1, LaneKind.KERNEL)(dialing, hosts.a, NAMES, LaneState.AWAIT_WELCOME, dialing=True),
            maker(1, LaneKind.KERNEL)(accepting, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
            return_exceptions=True,
        )
    assert [str(result) for result in results] == ["the kernel does no TLS"] * 2

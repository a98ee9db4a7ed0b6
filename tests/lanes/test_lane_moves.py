"""Moving a lane of each kind from one event loop to another after its first frame.

Part of the conformance suite: see ``test_lane``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.driver import NoSinks
from tests.support.lanes import MAKERS, NAMES, Hosts, each_kind, gone
from tests.support.network import TlsPeer, tcp_pair
from tests.support.userspacelanes import unread
from tests.support.waiting import until
from tunnel.errors import ProtocolError, TunnelError
from tunnel.lanes.lane import Lane
from tunnel.relay.workers import Worker, Workers
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, GoAway, Limits, Ping, Pong, Welcome
from tunnel.wire.negotiation import hello, welcome
from tunnel.wire.payload import Payload
from tunnel.wire.states import LaneState

OFFER = hello(b"S" * 16, b"I" * 16, Limits(16, 16))


class Owner(NoSinks):
    """A handler that records calls and their threads, and raises ``error`` for a frame."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[str, int]] = []
        self.frames: list[Frame] = []
        self.reason: TunnelError | None = None
        self._error = error

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        self._tell("frame")
        self.frames.append(frame)
        if self._error is not None:
            raise self._error

    def _tell(self, what: str) -> None:
        self.told.append((what, threading.get_ident()))

    def deliver(self, stream: int, offset: int, payload: Payload) -> None:
        self._tell("payload")

    def flush(self) -> None:
        """Ignore."""

    def on_writable(self, lane: Lane) -> None:
        """Ignore."""

    def on_tick(self, lane: Lane) -> None:
        self._tell("tick")

    def on_worn(self, lane: Lane) -> None:
        """Ignore."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        self._tell("end")
        self.reason = reason


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker: another loop in another thread."""
    workers = Workers(2)
    await workers.start()
    yield workers.all[1]
    await workers.stop()


class Moving:
    """An accepted lane that receives HELLO, and the peer."""

    def __init__(self, lane: Lane, peer: TlsPeer) -> None:
        self.lane = lane
        self.peer = peer
        self.first = Owner()

    async def heard(self) -> None:
        self.lane.start(self.first)
        await self.peer.send(encode(OFFER))
        await until(lambda: self.first.frames, "for HELLO")


async def enter(lane: Lane, owner: Owner) -> None:
    """Add a lane that has left another loop to this one."""
    lane.enter(owner, OFFER)


async def accepted(hosts: Hosts, kind: str) -> tuple[Moving, Any]:
    ours, theirs = tcp_pair()
    lane, peer = await asyncio.gather(
        MAKERS[kind](ours, hosts.b, NAMES, LaneState.AWAIT_FIRST, dialing=False),
        TlsPeer.connect(theirs, hosts.a, dialing=True),
    )
    return Moving(lane, peer), theirs


@each_kind
async def test_it_continues_in_the_other_thread(hosts: Hosts, kind: str, worker: Worker) -> None:
    moving, sock = await accepted(hosts, kind)
    await moving.heard()
    lane, owner = moving.lane, Owner()
    lane.leave()

    async def enter_and_answer() -> int:
        lane.enter(owner, OFFER)
        lane.send_control(encode(welcome(OFFER, b"J" * 16, Limits(16, 16))))
        lane.attached(1, owner)
        lane.flush()
        return threading.get_ident()

    there = await worker.call(enter_and_answer)
    assert owner.frames == [OFFER]
    await moving.peer.read_until(lambda: moving.peer.count(Welcome) and moving.peer.count(Ping))
    await moving.peer.send(encode(Ping(7)))
    await moving.peer.read_until(lambda: Pong(7) in moving.peer.frames)
    await moving.peer.send(encode(GoAway(Code.NONE, "over")))
    await until(lambda: owner.reason, "for the end")
    assert {thread for _, thread in owner.told} == {there}
    assert moving.first.frames == [OFFER], "the previous handler receives nothing more"
    assert moving.first.reason is None
    await worker.call(gone, lane)
    sock.close()


@each_kind
async def test_input_received_between_leave_and_enter_is_read(
    hosts: Hosts, kind: str, worker: Worker
) -> None:
    moving, sock = await accepted(hosts, kind)
    await moving.heard()
    lane, owner = moving.lane, Owner()
    lane.leave()
    await moving.peer.send(encode(GoAway(Code.NONE, "not waiting")))
    await until(lambda: unread(lane._sock) > 0, "for it to arrive")  # type: ignore[attr-defined]

    await worker.call(enter, lane, owner)
    await until(lambda: owner.reason, "for the end")
    assert "not waiting" in str(owner.reason)
    await worker.call(gone, lane)
    sock.close()


@each_kind
async def test_a_first_frame_that_the_new_handler_refuses_is_answered(
    hosts: Hosts, kind: str, worker: Worker
) -> None:
    moving, sock = await accepted(hosts, kind)
    await moving.heard()
    lane, owner = moving.lane, Owner(ProtocolError(Code.COLLISION, "no"))
    lane.leave()

    await worker.call(enter, lane, owner)
    await moving.peer.read_until(lambda: moving.peer.count(GoAway))
    await until(lambda: owner.reason, "for the end")
    await worker.call(gone, lane)
    sock.close()


@each_kind
async def test_an_exception_in_the_new_handler_ends_the_lane(hosts: Hosts, kind: str, worker: Worker) -> None:
    moving, sock = await accepted(hosts, kind)
    await moving.heard()
    lane, owner = moving.lane, Owner(ValueError("a bug"))
    lane.leave()

    with pytest.raises(ValueError, match="a bug"):
        await worker.call(enter, lane, owner)
    await moving.peer.read_until(lambda: moving.peer.count(GoAway))
    await worker.call(gone, lane)
    sock.close()

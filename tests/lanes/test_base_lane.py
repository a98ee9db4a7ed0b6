"""The base class of lanes, on one without encryption; the conformance suite tests each kind."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.support.driver import Host
from tests.support.network import tcp_pair
from tests.support.waiting import turns, until
from tunnel.errors import LaneLost
from tunnel.lanes import base_lane
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.quanta import LARGEST
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import MIB
from tunnel.wire.codes import Code
from tunnel.wire.payload import Outgoing
from tunnel.wire.states import LaneState

pytestmark = pytest.mark.usefixtures("quiet_loop")


class PlainLane(BaseLane[bytes]):
    """Sends and receives bytes without TLS."""

    kind = LaneKind.USERSPACE
    cipher = "none"
    records_sent = records_received = 0

    def send_control(self, frames: bytes) -> None:
        self._unsent.append(frames)

    def send(self, outgoing: Outgoing) -> None:
        raise NotImplementedError

    def _push(self) -> bool:
        try:
            while self._unsent:
                count = self._sock.send(self._unsent[0])
                rest = self._unsent.popleft()[count:]
                if rest:
                    self._unsent.appendleft(rest)
        except BlockingIOError:
            self._full = True
            return False
        except OSError as error:
            self._break_off(str(error))
            return True
        self._full = False
        return True

    def _read(self) -> bool:
        data = self._sock.recv(MIB)
        if data:
            self._received(memoryview(data))
        else:
            self._lost(self._unsendable or "closed")
        return True

    def _say_goodbye(self) -> None:
        self._shut()

    def _discard(self) -> None:
        if not self._sock.recv(MIB):
            self._release()


class Ends:
    """A lane whose handler only records calls, and the socket at the other end."""

    def __init__(self) -> None:
        ours, self.peer = tcp_pair()
        self.host = Host(initiator=False)
        self.lane = PlainLane(ours, "hostb", LaneState.AWAIT_FIRST)
        self.host.own(self.lane)

    async def fill(self) -> int:
        """Queue until the socket is full; return how much."""
        queued = 0
        while self.lane.room:
            self.lane.send_control(bytes(MIB))
            queued += MIB
            self.lane.flush()
        return queued

    async def drain(self, size: int) -> None:
        """Read ``size`` bytes at the other end."""
        taken = 0

        def more() -> bool:
            nonlocal taken
            with suppress(BlockingIOError):
                taken += len(self.peer.recv(size - taken))
            return taken == size

        await until(more, "for the queue")


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.lane.abort()
    made.peer.close()


async def test_nothing_is_sent_before_flush(ends: Ends) -> None:
    ends.lane.send_control(b"early")
    await turns()
    with pytest.raises(BlockingIOError):
        ends.peer.recv(1)
    ends.lane.flush()
    assert ends.peer.recv(9) == b"early"
    assert ends.lane.batch == LARGEST


async def test_bytes_left_by_a_full_socket_are_sent_and_then_there_is_room(ends: Ends) -> None:
    queued = await ends.fill()
    assert not ends.lane.room
    await ends.drain(queued)
    await until(lambda: ends.lane.room)
    assert "on_writable" in ends.host.calls


async def test_a_socket_error_on_sending_is_a_loss(ends: Ends) -> None:
    ends.lane._sock.shutdown(socket.SHUT_WR)
    ends.lane.send_control(b"late")
    ends.lane.flush()
    assert not ends.lane.room
    await until(lambda: ends.host.ends)
    assert isinstance(ends.host.ends[0], LaneLost)
    assert "Broken pipe" in str(ends.host.ends[0])
    assert ends.lane.gone.is_set()


async def test_a_closing_lane_sends_its_queue_and_waits_for_the_peer(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_lane, "LINGER", 60.0)
    queued = await ends.fill()
    ends.lane.close(Code.NONE, "")
    assert not ends.lane.gone.is_set()
    await ends.drain(queued + 22)  # and GOAWAY
    await until(lambda: ends.peer.recv(1) == b"")
    ends.peer.close()
    await until(ends.lane.gone.is_set)


async def test_a_closing_lane_does_not_wait_for_ever(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_lane, "LINGER", 0.1)
    await ends.fill()
    ends.lane.close(Code.NONE, "")
    await until(ends.lane.gone.is_set)

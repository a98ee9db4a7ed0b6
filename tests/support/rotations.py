"""Helpers for rotation tests: the frames that a lane sent, a lane whose data is lost, and a full rotation."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tests.support.links import Pair, receive, rejoin
from tests.support.pipelane import PipeLane
from tests.support.waiting import until
from tunnel.wire.frames import Frame, RotationFrame
from tunnel.wire.lane_protocol import Decoder


def frames_of(said: bytes | bytearray) -> tuple[list[Frame], int]:
    """Return the frames in data that a lane sent, and the number of payload bytes."""
    decoder, view, found, payload = Decoder(), memoryview(bytes(said)), list[Frame](), 0
    while view:
        if left := min(decoder.payload_left, len(view)):
            decoder.moved(left)
            view, payload = view[left:], payload + left
            continue
        taken, frame = decoder.feed(view)
        if frame is not None:
            found.append(frame)
        view = view[taken:]
    return found, payload


def of_rotation(lane: PipeLane) -> list[Frame]:
    return [frame for frame in frames_of(lane.said)[0] if isinstance(frame, RotationFrame)]


def deafened(lane: PipeLane) -> PipeLane:
    """Return the peer's end of ``lane``, after which data sent on ``lane`` is lost."""
    far, lane.far = lane.far, None
    assert far is not None
    return far


async def rotated(pair: Pair, old: int) -> PipeLane:
    """Replace lane ``old``, and wait until the rotation is complete at both ends; return the new lane."""
    lane = rejoin(pair.a, pair.b, old)
    await until(
        lambda: (
            old not in pair.b.lanes and lane.epoch and not (pair.a.rotation.others or pair.b.rotation.others)
        ),
        "for the rotation",
    )
    return lane


async def soon(condition: Callable[[], object]) -> None:
    """Return in the loop iteration in which ``condition()`` becomes true."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not become true")


async def crosses(source: socket.socket, sink: socket.socket, count: int) -> None:
    content = (bytes(range(251)) * (count // 251 + 1))[:count]
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(source, content))
    assert await receive(sink, count) == content
    await sending

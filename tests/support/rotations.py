"""Rotations by hand: what a lane said, a lane to which nothing gets through, a clock that a test moves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tests.support.links import Pair, receive, rejoin
from tests.support.pipelane import PipeLane
from tests.support.waiting import until
from tunnel.wire.decoder import Decoder
from tunnel.wire.frames import Frame, RotationFrame


def frames_of(said: bytes | bytearray) -> tuple[list[Frame], int]:
    """The frames in what a lane sent, and how many bytes of payload."""
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
    """The far end of ``lane``, to which nothing that it says gets through from now on."""
    far, lane.far = lane.far, None
    assert far is not None
    return far


async def rotated(pair: Pair, old: int) -> PipeLane:
    """Replace lane ``old``, and wait until that is over at both ends."""
    lane = rejoin(pair.a, pair.b, old)
    await until(
        lambda: (
            old not in pair.b.lanes and lane.epoch and not (pair.a.rotation.others or pair.b.rotation.others)
        ),
        "for the rotation",
    )
    return lane


async def soon(condition: Callable[[], object]) -> None:
    """Return in the very turn of the loop in which ``condition()`` begins to hold."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


async def crosses(source: socket.socket, sink: socket.socket, count: int) -> None:
    content = (bytes(range(251)) * (count // 251 + 1))[:count]
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(source, content))
    assert await receive(sink, count) == content
    await sending

"""docs/architecture.md names every file that a byte passes: a trace of a bulk stream finds no other."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import tunnel
from tests.support.lanes import MAKERS, Hosts
from tests.support.network import tcp_pair
from tests.support.relays import Relay, relaying
from tests.test_architecture import VARIANTS, path_of_a_byte
from tunnel.lanes.kernel_lane import KernelLane
from tunnel.lanes.lane import Lane
from tunnel.records.key_schedule import SUITES
from tunnel.tls.contexts import TlsContexts
from tunnel.units import KIB, MIB
from tunnel.wire import keepalive
from tunnel.wire.states import LaneState

ROOT = str(Path(tunnel.__file__).parent)
KINDS = {"userspace lane": "userspace", "kernel lane": "kernel", "compiled engine": "compiled"}
SIZE = 4 * MIB
PART = 64 * KIB


async def bare(
    sock: socket.socket, contexts: TlsContexts, peers: Collection[str], state: LaneState, *, dialing: bool
) -> Lane:
    """Make a kernel lane without TLS (a LaneMaker): the kernel of this machine may not have it."""
    return KernelLane(sock, next(iter(SUITES)), "hostb" if dialing else "hosta", state)


async def move(one: socket.socket, other: socket.socket) -> None:
    """Move SIZE bytes, and never as many at a time as fill a socket: that is no steady state."""
    loop = asyncio.get_running_loop()
    for _ in range(0, SIZE, PART):
        await loop.sock_sendall(one, bytes(PART))
        left = PART
        while left:
            left -= len(await loop.sock_recv(other, left))


class Trace:
    """Files of functions that are called from a step of the path, by host; other events are not steps."""

    def __init__(self, relay: Relay) -> None:
        self.files: dict[str, set[str]] = {"A": set(), "B": set()}
        self._steps: dict[tuple[int, str], str] = {}
        for pump in relay.a.streams.pumps.values():
            self._steps[id(pump), "_readable"] = "A"
        self._steps[id(relay.a._sending), "_turn"] = "A"
        for lane in relay.b.lanes.values():
            self._steps[id(lane), "_readable"] = "B"

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(ROOT):
            return
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_code.co_filename.startswith(ROOT):
                first = outer
            outer = outer.f_back
        host = self._steps.get((id(first.f_locals.get("self")), first.f_code.co_name))
        if host is not None:
            self.files[host].add(str(Path("tunnel") / Path(file).relative_to(ROOT)))

    @contextmanager
    def running(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(before)


@pytest.mark.parametrize("local", [tcp_pair, socket.socketpair], ids=["tcp", "unix"])
@pytest.mark.parametrize("path", VARIANTS)
async def test_a_byte_passes_no_other_file(
    tmp_path_factory: pytest.TempPathFactory,
    tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    local: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL", 3600.0)
    monkeypatch.setitem(MAKERS, "kernel", bare)
    hosts, kind = Hosts.create(tmp_path_factory.mktemp("path") / "pki"), KINDS[path]
    async with relaying(hosts, (kind, kind), tmp) as relay, asyncio.timeout(90):
        one, other = await relay.stream(local())
        with one, other:
            await move(one, other)
            trace = Trace(relay)
            with trace.running():
                await move(one, other)
    for host, files in trace.files.items():
        assert len(files) >= 8
        assert sorted(files - {file for file, _ in path_of_a_byte(path, host)}) == [], host

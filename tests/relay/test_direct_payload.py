"""Payload that lanes of the compiled engine move directly, from hypervisor to hypervisor."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.support.lanes import Hosts
from tests.support.links import Pair
from tests.support.relays import relaying, send, take
from tests.support.waiting import until
from tunnel.lanes.lane import Lane, SourceRead
from tunnel.units import KIB, MIB
from tunnel.wire.scheduler import LONG_QUANTUM

BULK = 32 * MIB


@pytest.mark.parametrize("streams", [1, 3])
async def test_bulk_bypasses_python_at_both_ends(
    tmp_path_factory: pytest.TempPathFactory, tmp: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    hosts = Hosts.create(tmp_path_factory.mktemp("direct") / "pki")
    async with relaying(hosts, ("compiled", "compiled"), tmp) as relay, asyncio.timeout(90):
        passed: list[int] = []
        on_passed = relay.b.streams.on_passed

        def count(stream: int, offset: int, size: int, error: OSError | None) -> None:
            passed.append(size)
            on_passed(stream, offset, size, error)

        monkeypatch.setattr(relay.b.streams, "on_passed", count)
        monkeypatch.setattr(relay.a.streams, "_read", None)
        ends = [await relay.stream() for _ in range(streams)]
        size = BULK // streams
        await asyncio.gather(*(send(one, size) for one, _ in ends), *(take(other, size) for _, other in ends))
        assert sum(passed) > MIB, "the rest came while a socket was full"
        for end in itertools.chain(*ends):
            end.close()
        await until(lambda: relay.idle)


@dataclass
class Stub:
    """A lane that fills the buffers that it is given, and sends nothing."""

    batch: int
    carries: bool = True
    room: bool = True
    epoch: int = 1

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> SourceRead:
        return SourceRead(os.readv(source, rooms), empty=False, ended=False, error=None)


@pytest.mark.parametrize(("batch", "most"), [(16 * KIB, 16 * KIB), (MIB, 64 * KIB)])
async def test_a_congested_link_gets_a_batch_at_a_time(batch: int, most: int) -> None:
    """More would delay the next frame of a sparse stream."""
    pair = await Pair().up()
    caller, called = await pair.stream()
    with caller, called:
        session = pair.a.streams._living()
        await until(lambda: session.expects(1)[1] > 0, "for the stream to be open")
        caller.send(bytes(100 * KIB))
        session.ready(1)
        assert pair.a.streams.send_next(cast("Lane", Stub(batch)), LONG_QUANTUM) == most
    pair.close()

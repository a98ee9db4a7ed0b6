"""A move by QEMU's monitors alone; the e2e tests move guests with it through daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.guests import small_machine
from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.migration import Options
from tunnel.virt.move import Where
from tunnel.virt.qemu import Qemu
from tunnel.virt.qmp import Monitor
from tunnel.virt.qmpmove import QmpMove, require_capability
from tunnel.virt.trial import Trial


def move_of(trial: Trial, *, blind: bool = False) -> QmpMove:
    uri = f"unix:{trial.directory}/migration"
    there = None if blind else trial.destination.monitor
    return QmpMove(trial.source.monitor, there, uri, uri, Options())


async def test_guest_moves_and_is_seen_to_have_moved(trial: Trial) -> None:
    move = move_of(trial)
    assert await move.progress() is None
    await move.prepare()
    assert await move.where() is Where.SOURCE
    summary = await move.run()
    assert await move.where() is Where.DESTINATION
    await trial.verify()
    assert summary.sent is not None
    assert summary.sent > 0
    last = await move.progress()
    assert last is not None
    assert last.phase == "completed"


async def test_destination_that_nobody_can_ask_is_not_vouched_for(trial: Trial) -> None:
    uri = f"unix:{trial.directory}/migration"
    await trial.destination.monitor.execute("migrate-incoming", {"uri": uri})
    move = move_of(trial, blind=True)
    await move.prepare()
    await move.run()
    assert await move.where() is Where.LEFT


async def test_destination_that_listens_already_is_not_told_again(trial: Trial) -> None:
    uri = f"unix:{trial.directory}/migration"
    await trial.destination.monitor.execute("migrate-incoming", {"uri": uri})
    move = move_of(trial)
    await move.prepare()
    await move.run()
    assert await move.where() is Where.DESTINATION


async def test_source_that_died_is_not_alive(trial: Trial) -> None:
    move = move_of(trial)
    await move.prepare()
    trial.source.child.kill()
    assert await move.where() is Where.NEITHER


async def test_destination_that_runs_a_guest_is_refused(qemu: Qemu, trial: Trial) -> None:
    move = QmpMove(trial.source.monitor, qemu.monitor, "unix:/x", "unix:/x", Options())
    with pytest.raises(HypervisorError, match="guest is running, and waits for no guest"):
        await move.prepare()


async def test_source_without_a_guest_is_refused(tmp: Path) -> None:
    async with await Qemu.start("waiting", small_machine(tmp), tmp, incoming="defer") as empty:
        with pytest.raises(HypervisorError, match="waiting: it is inmigrate and has no guest to move"):
            await QmpMove(empty.monitor, None, "unix:/x", "unix:/x", Options()).prepare()


class OldMonitor:
    """The monitor of a QEMU that knows little."""

    name = "source"

    async def execute(self, command: str) -> Any:
        if command == "query-version":
            return {"qemu": {"major": 5, "minor": 2, "micro": 0}}
        return [{"capability": "multifd", "state": False}]


async def test_capability_that_is_missing_is_named_with_the_version() -> None:
    old = cast("Monitor", OldMonitor())
    await require_capability(old, "multifd")
    with pytest.raises(UsageError, match=r"source: QEMU 5\.2\.0 has no postcopy-preempt"):
        await require_capability(old, "postcopy-preempt")

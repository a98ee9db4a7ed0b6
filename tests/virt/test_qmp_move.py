"""A migration through QEMU's monitors alone; the e2e tests do the same through daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.guests import small_machine
from tunnel.errors import HypervisorError, UsageError
from tunnel.proof.qemu import Qemu
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.guest_location import Where
from tunnel.virt.move_options import DEFAULTS
from tunnel.virt.qmp import Monitor
from tunnel.virt.qmp_move import QmpMove, require_capability


def move_of(trial: Trial, *, blind: bool = False) -> QmpMove:
    uri = f"unix:{trial.directory}/migration"
    there = None if blind else trial.destination.monitor
    return QmpMove(trial.source.monitor, there, uri, uri, DEFAULTS)


async def test_guest_moves_and_is_located_at_the_destination(trial: Trial) -> None:
    move = move_of(trial)
    monitors = trial.source.monitor, trial.destination.monitor
    for monitor in monitors:
        monitor.patience = 60.0
    assert await move.progress() is None
    await move.prepare()
    assert await move.where() is Where.SOURCE
    summary = await move.run()
    assert [monitor.patience for monitor in monitors] == [None, None], "a busy host ends no migration"
    assert await move.where() is Where.DESTINATION
    await trial.verify()
    assert summary.sent is not None
    assert summary.sent > 0
    last = await move.progress()
    assert last is not None
    assert last.phase == "completed"


async def test_destination_without_a_monitor_is_not_verified(trial: Trial) -> None:
    uri = f"unix:{trial.directory}/migration"
    await trial.destination.monitor.execute("migrate-incoming", {"uri": uri})
    move = move_of(trial, blind=True)
    await move.prepare()
    await move.run()
    assert await move.where() is Where.LEFT


async def test_destination_that_already_listens_is_used(trial: Trial) -> None:
    uri = f"unix:{trial.directory}/migration"
    await trial.destination.monitor.execute("migrate-incoming", {"uri": uri})
    move = move_of(trial)
    await move.prepare()
    await move.run()
    assert await move.where() is Where.DESTINATION


async def test_killed_source_has_no_guest(trial: Trial) -> None:
    move = move_of(trial)
    await move.prepare()
    trial.source.child.kill()
    assert await move.where() is Where.NEITHER


async def test_killed_destination_has_no_guest(trial: Trial) -> None:
    move = move_of(trial)
    await move.prepare()
    trial.destination.child.kill()
    await trial.destination.child.wait()
    assert await move.where() is Where.SOURCE


@pytest.mark.parametrize(("held", "where"), [(True, Where.SOURCE), (False, Where.STAYED)])
async def test_destination_behind_a_relay_has_ended_only_if_the_link_was_held(
    trial: Trial, held: bool, where: Where
) -> None:
    async def ended() -> bool:
        return held

    uri = f"unix:{trial.directory}/migration"
    monitors = trial.source.monitor, trial.destination.monitor
    move = QmpMove(*monitors, uri, uri, DEFAULTS, destination_ended=ended)
    await move.prepare()
    assert await move.where() is Where.SOURCE
    await trial.destination.monitor.close()
    assert await move.where() is where


async def test_source_with_a_closed_monitor_is_unknown(trial: Trial) -> None:
    move = move_of(trial)
    await move.prepare()
    await trial.source.monitor.close()
    assert await move.where() is Where.UNKNOWN


async def test_guest_stopped_at_the_source_has_not_left(trial: Trial) -> None:
    move = move_of(trial, blind=True)
    await move.prepare()
    await trial.source.monitor.execute("stop")
    assert await move.where() is Where.HALTED


async def test_second_migration_of_a_guest_is_refused_and_the_first_continues(trial: Trial) -> None:
    uri = f"unix:{trial.directory}/migration"
    await trial.destination.monitor.execute("migrate-incoming", {"uri": uri})
    await trial.source.monitor.execute("migrate-set-parameters", {"max-bandwidth": MIB})
    late = move_of(trial, blind=True)
    await late.prepare()
    await trial.source.monitor.execute("migrate", {"uri": uri})
    with pytest.raises(HypervisorError, match=r"a migration of this guest is already in progress \(\w+\)"):
        await move_of(trial, blind=True).prepare()
    with pytest.raises(HypervisorError):
        await late.run()
    await late.abort()
    assert await late.where() is Where.MOVING
    status = (await trial.source.monitor.execute("query-migrate"))["status"]
    assert status in {"setup", "active"}, "the first one is still active"
    await trial.source.monitor.execute("migrate_cancel")


async def test_guest_with_another_uuid_is_refused_by_the_destination(tmp: Path) -> None:
    uri = f"unix:{tmp}/migration"
    here = small_machine(tmp, "-uuid", "11111111-1111-4111-8111-111111111111")
    there = small_machine(tmp, "-uuid", "22222222-2222-4222-8222-222222222222")
    async with (
        await Qemu.start("source", here, tmp) as source,
        await Qemu.start("destination", there, tmp, incoming=uri),
    ):
        move = QmpMove(source.monitor, None, uri, uri, DEFAULTS)
        await move.prepare()
        with pytest.raises(HypervisorError):
            await move.run()
        assert await source.monitor.status() == "running"


async def test_destination_that_runs_a_guest_is_refused(qemu: Qemu, trial: Trial) -> None:
    move = QmpMove(trial.source.monitor, qemu.monitor, "unix:/x", "unix:/x", DEFAULTS)
    with pytest.raises(HypervisorError, match="guest is running, not waiting for a guest"):
        await move.prepare()


async def test_source_without_a_guest_is_refused(tmp: Path) -> None:
    async with await Qemu.start("waiting", small_machine(tmp), tmp, incoming="defer") as empty:
        with pytest.raises(HypervisorError, match="waiting: QEMU is inmigrate and has no guest to migrate"):
            await QmpMove(empty.monitor, None, "unix:/x", "unix:/x", DEFAULTS).prepare()


class OldMonitor:
    """The monitor of an old QEMU."""

    name = "source"

    async def execute(self, command: str) -> Any:
        if command == "query-version":
            return {"qemu": {"major": 5, "minor": 2, "micro": 0}}
        return [{"capability": "multifd", "state": False}]


async def test_capability_that_is_missing_is_named_with_the_version() -> None:
    old = cast("Monitor", OldMonitor())
    await require_capability(old, "multifd")
    with pytest.raises(UsageError, match=r"source: QEMU 5\.2\.0 does not support postcopy-preempt"):
        await require_capability(old, "postcopy-preempt")

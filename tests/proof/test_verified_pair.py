"""The verification of a migration: what it accepts and rejects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.guests import BUSY, MEMORY
from tunnel.errors import HypervisorError, MigrationError, VerificationError
from tunnel.proof.pattern_guest import Workload
from tunnel.proof.verified_pair import Trial
from tunnel.proof.verify import read_state
from tunnel.units import MIB


def local(directory: Path) -> str:
    return f"unix:{directory}/migration"


async def test_guest_has_filled_its_memory_when_the_trial_starts(trial: Trial) -> None:
    state = await read_state(trial.source.monitor, trial.directory)
    assert state.filled * 4096 > MEMORY - 3 * MIB
    assert await trial.destination.monitor.status() == "inmigrate"


async def test_moved_guest_runs_after_the_verification(trial: Trial) -> None:
    uri = local(trial.directory)
    await trial.migrate(uri, uri)
    verified = await trial.verify()
    assert verified.pages == verified.state.filled
    assert await trial.destination.monitor.status() == "running"
    assert await trial.source.monitor.status() == "postmigrate"


async def test_guest_that_never_left_is_not_verified(trial: Trial) -> None:
    with pytest.raises(VerificationError, match="is still running at the source"):
        await trial.verify()


async def test_guest_that_runs_on_both_sides_is_not_verified(trial: Trial) -> None:
    uri = local(trial.directory)
    await trial.migrate(uri, uri)
    await trial.source.monitor.execute("cont")
    with pytest.raises(VerificationError, match="is still running at the source"):
        await trial.verify()


async def test_another_guest_at_the_destination_is_not_verified(tmp: Path) -> None:
    for name in ("one", "two"):
        (tmp / name).mkdir()
    async with (
        await Trial.start(tmp / "one", MEMORY, BUSY) as one,
        await Trial.start(tmp / "two", MEMORY, Workload(BUSY.working_set, BUSY.dirty_rate, seed=7)) as two,
    ):
        await two.migrate(local(tmp), local(tmp))
        await one.source.monitor.execute("stop")
        mixed = Trial(one.source, two.destination, tmp)
        with pytest.raises(VerificationError, match="this is a different guest"):
            await mixed.verify()


async def test_failed_migration_includes_the_output_of_the_destination(trial: Trial) -> None:
    with pytest.raises(MigrationError, match="Output of the destination's QEMU: none"):
        await trial.migrate("unix:/nonexistent", local(trial.directory))


async def test_trial_that_cannot_start_leaves_no_process(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match="unsupported machine type"):
        await Trial.start(tmp, MEMORY, BUSY, model="no-such-machine")

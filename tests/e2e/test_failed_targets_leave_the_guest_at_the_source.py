"""If the destination's QEMU fails, so does the migration: the guest continues at the source."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.guests import BUSY, MEMORY, PRECOPY
from tunnel.errors import MigrationError
from tunnel.proof.free_port import free_port
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.move import completed
from tunnel.virt.polling import until
from tunnel.virt.progress import Progress
from tunnel.virt.qmp_move import QmpMove

pytestmark = pytest.mark.slow

RUNS_ON = r"The guest is still running at the source\b"


async def prove_next(trial: Trial, entry: str, listen: str) -> None:
    """Verify that the guest still runs, and that the same daemons can migrate it."""
    assert await trial.source.monitor.status() == "running"
    await trial.migrate(entry, listen)
    await trial.verify()


async def test_absent(hosts: TwoHosts, tmp: Path) -> None:
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry = hosts.a.leads_to(hosts.b, listen)
    hosts.start()
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        with pytest.raises(MigrationError, match=RUNS_ON):
            await completed(QmpMove(trial.source.monitor, None, entry, listen, PRECOPY))
        hosts.a.wait_log(f"stream refused by the peer.*cannot connect to {listen}: Connection refused")
        await prove_next(trial, entry, listen)


async def test_refusing(hosts: TwoHosts, tmp: Path) -> None:
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry = hosts.a.leads_to(hosts.b, listen)
    hosts.start()
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        other = Machine(tmp / "kernel", 2 * MEMORY)
        async with await Qemu.start("other", other, tmp, incoming="defer") as destination:
            mismatched = Trial(trial.source, destination, tmp)
            with pytest.raises(MigrationError, match=rf"(?s){RUNS_ON}.*Size mismatch"):
                await mismatched.migrate(entry, listen)
        await prove_next(trial, entry, listen)


async def test_killed_half_way(hosts: TwoHosts, tmp: Path) -> None:
    listen = f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    entry = hosts.a.leads_to(hosts.b, listen)
    hosts.start()
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        victim = await Qemu.start("victim", Machine(tmp / "kernel", MEMORY), tmp, incoming="defer")
        async with victim:
            doomed = Trial(trial.source, victim, tmp)
            samples: list[Progress] = []
            slow = dataclasses.replace(PRECOPY, bandwidth=16 * MIB)
            task = asyncio.create_task(doomed.migrate(entry, listen, slow, samples.append))

            def half_way() -> bool:
                if task.done():
                    task.result()
                return bool(samples) and samples[-1].sent > 8 * MIB

            await until(half_way, within=30, every=0.02)
            victim.child.kill()
            with pytest.raises(MigrationError, match=RUNS_ON):
                await asyncio.wait_for(task, 10)
        await prove_next(trial, entry, listen)

"""Real migrations from QEMU to QEMU, in every mode, and the reported location after failures."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support.guests import BUSY, MEMORY, MULTIFD, POSTCOPY, PRECOPY, mode_of
from tunnel.errors import MigrationError
from tunnel.proof.pattern_guest import build_image
from tunnel.proof.qemu import PROGRAM, Machine, Qemu
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.move import MoveSummary, completed
from tunnel.virt.move_options import MoveOptions
from tunnel.virt.polling import until
from tunnel.virt.progress import Progress, QemuPhase
from tunnel.virt.qmp import Monitor
from tunnel.virt.qmp_move import QmpMove

SLOW = 8 * MIB  # bytes per second: such a migration does not end during a test


def local(directory: Path) -> str:
    return f"unix:{directory}/migration"


def kernel(directory: Path) -> Path:
    path = directory / "kernel"
    path.write_bytes(build_image(BUSY))
    return path


def slowed(options: MoveOptions) -> MoveOptions:
    return dataclasses.replace(options, bandwidth=SLOW)


async def start_slowly(
    trial: Trial, options: MoveOptions, until_phase: QemuPhase
) -> tuple[asyncio.Task[MoveSummary], list[Progress]]:
    """Start a slow migration and wait for a phase: its task, and the samples so far."""
    samples: list[Progress] = []
    uri = local(trial.directory)
    task = asyncio.create_task(trial.migrate(uri, uri, slowed(options), samples.append))

    def reached() -> bool:
        if task.done():
            task.result()
        return any(sample.phase == until_phase for sample in samples)

    await until(reached, within=30, every=0.02)
    return task, samples


@pytest.mark.parametrize("options", [PRECOPY, MULTIFD, POSTCOPY], ids=mode_of)
async def test_guest_arrives_intact(trial: Trial, options: MoveOptions) -> None:
    samples: list[Progress] = []
    uri = local(trial.directory)
    outcome = await trial.migrate(uri, uri, options, samples.append)
    verified = await trial.verify()
    assert verified.pages * 4096 > MEMORY - 3 * MIB
    assert outcome.postcopied == options.postcopy
    assert outcome.sent is not None
    assert outcome.sent > MEMORY * 0.9
    assert outcome.throughput > outcome.sent / outcome.seconds > 0, "the setup does not count"
    assert outcome.iterations is not None
    assert outcome.iterations >= 1
    assert samples[-1].phase == QemuPhase.COMPLETED
    assert max(sample.total for sample in samples) >= MEMORY


class Late:
    """A fake source monitor whose QEMU computes its times late, which real ones rarely do."""

    name = "source"

    def __init__(self) -> None:
        self._states = iter(["running", "finish-migrate", "finish-migrate"])
        self._worked_out = False

    async def status(self) -> str:
        state = next(self._states, "postmigrate")
        self._worked_out = state == "postmigrate"
        return state

    async def execute(self, command: str, arguments: object = None) -> object:
        if command != "query-migrate":
            return [{"capability": name} for name in ("events", "return-path")]
        return {"status": "completed", "total-time": 250 if self._worked_out else 0}

    @contextlib.contextmanager
    def listen(self, *events: str) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(history=[])


async def test_times_are_read_after_qemu_has_computed_them() -> None:
    move = QmpMove(cast("Monitor", Late()), None, "tcp:192.0.2.1:49152", "", PRECOPY)
    await move.prepare()
    summary = await move.run()
    assert summary.seconds == 0.25


async def test_guest_arrives_over_tcp(trial: Trial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"tcp:127.0.0.1:{free.getsockname()[1]}"
    await trial.migrate(uri, uri)
    await trial.verify()


async def test_postcopy_after_a_pass_sends_again_what_was_dirtied(trial: Trial) -> None:
    uri = local(trial.directory)
    options = dataclasses.replace(POSTCOPY, switch_after=1, bandwidth=MEMORY)
    outcome = await trial.migrate(uri, uri, options)
    assert outcome.postcopied
    assert (outcome.iterations or 0) > 1
    assert (outcome.sent or 0) > MEMORY
    await trial.verify()


async def test_paused_guest_arrives_paused(trial: Trial) -> None:
    await trial.source.monitor.execute("stop")
    uri = local(trial.directory)
    await trial.migrate(uri, uri)
    assert await trial.destination.monitor.status() == "paused"
    await trial.verify()


@pytest.mark.parametrize(
    ("options", "phase"),
    [(PRECOPY, QemuPhase.ACTIVE), (MULTIFD, QemuPhase.ACTIVE), (POSTCOPY, QemuPhase.POSTCOPY_ACTIVE)],
    ids=mode_of,
)
async def test_bandwidth_limit_is_respected(trial: Trial, options: MoveOptions, phase: QemuPhase) -> None:
    task, samples = await start_slowly(trial, options, phase)
    parameters = await trial.source.monitor.execute("query-migrate-parameters")
    assert parameters["max-bandwidth"] == parameters["max-postcopy-bandwidth"] == SLOW
    if phase is QemuPhase.POSTCOPY_ACTIVE:
        # QEMU exempts requested pages from the limit (migration_rate_limit).
        await trial.destination.monitor.execute("stop")
    seen = len(samples)

    async def moved() -> Progress | None:
        since = samples[seen:]
        return since[-1] if since and since[-1].sent > since[0].sent + 2 * SLOW else None

    sample, begin = await until(moved, within=30, every=0.05), samples[seen]
    assert sample.phase == phase
    version = await trial.source.monitor.execute("query-version")
    # Newer QEMUs count the bytes of multifd's channels only once sent, and send 20 MiB/s at a limit of 8.
    factor = 4 if options is MULTIFD and version["qemu"]["major"] >= 8 else 2
    assert sample.sent - begin.sent < factor * SLOW * (sample.elapsed - begin.elapsed)
    task.cancel()
    await asyncio.wait({task}, timeout=30)


async def test_no_listener_leaves_the_guest_at_the_source(trial: Trial) -> None:
    nowhere = local(trial.directory)
    with pytest.raises(MigrationError, match=r"(?s)No such file.*The guest is still running at the source\b"):
        await completed(QmpMove(trial.source.monitor, None, nowhere, "", PRECOPY))


async def test_destination_that_cannot_listen_leaves_the_guest_at_the_source(trial: Trial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            MigrationError, match=r"(?s)migrate-incoming.*in use.*is still running at the source"
        ):
            await trial.migrate(uri, uri)


async def test_destination_with_other_hardware_refuses_with_its_output(tmp: Path) -> None:
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        other = Machine(kernel(tmp), 2 * MEMORY)
        async with await Qemu.start("other", other, tmp, incoming="defer") as destination:
            mismatched = Trial(trial.source, destination, tmp)
            with pytest.raises(
                MigrationError, match=r"(?s)is still running at the source, and nowhere else.*Size mismatch"
            ):
                await mismatched.migrate(local(tmp), local(tmp))
        assert await trial.source.monitor.status() == "running"


async def test_destination_killed_in_precopy_leaves_the_guest_at_the_source(trial: Trial) -> None:
    task, _ = await start_slowly(trial, PRECOPY, QemuPhase.ACTIVE)
    trial.destination.child.kill()
    with pytest.raises(MigrationError, match=r"The guest is still running at the source\b"):
        await asyncio.wait_for(task, 30)


async def test_destination_killed_in_postcopy_loses_the_guest(trial: Trial) -> None:
    task, samples = await start_slowly(trial, POSTCOPY, QemuPhase.POSTCOPY_ACTIVE)
    before = samples[-1].sent

    # QEMU reports post-copy before the switch, and a failure in between is "failed", not "paused".
    await until(lambda: samples[-1].sent > before, within=30, every=0.02)
    trial.destination.child.kill()
    with pytest.raises(MigrationError, match=r"(?s)postcopy-paused.*The guest is lost: it was in post-copy"):
        await asyncio.wait_for(task, 30)


async def test_source_killed_leaves_an_error_and_no_hanging_task(trial: Trial) -> None:
    task, _ = await start_slowly(trial, PRECOPY, QemuPhase.ACTIVE)
    trial.source.child.kill()
    with pytest.raises(MigrationError, match=r"monitor closed.*\n.*runs neither at the source"):
        await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("options", [PRECOPY, MULTIFD], ids=mode_of)
async def test_cancelled_precopy_leaves_the_guest_at_the_source(trial: Trial, options: MoveOptions) -> None:
    task, _ = await start_slowly(trial, options, QemuPhase.ACTIVE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    answer = await trial.source.monitor.execute("query-migrate")
    # QEMU reports "failed" when the destination disconnected before it handled the cancellation.
    assert answer["status"] in {"cancelled", "failed"}
    assert await trial.source.monitor.status() == "running"


async def test_cancelling_in_postcopy_does_not_lose_the_guest(trial: Trial) -> None:
    task, _ = await start_slowly(trial, POSTCOPY, QemuPhase.POSTCOPY_ACTIVE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await trial.source.monitor.execute("migrate-set-parameters", {"max-postcopy-bandwidth": 0})

    async def completed() -> bool:
        answer = await trial.source.monitor.execute("query-migrate")
        return bool(answer["status"] == "completed")

    await until(completed, within=30, every=0.05)
    await trial.verify()


def _as_nobody() -> tuple[str, ...]:
    """Return the option that makes QEMU drop root; QEMU 10 has removed -runas."""
    listed = subprocess.run([PROGRAM, "-help"], capture_output=True, text=True, check=True, timeout=30).stdout
    return ("-runas", "nobody") if "\n-runas " in listed else ("-run-with", "user=nobody")


@pytest.mark.root
async def test_postcopy_without_userfaultfd_has_a_hint(tmp: Path) -> None:
    source = Machine(kernel(tmp), MEMORY)
    unprivileged = dataclasses.replace(source, extra=_as_nobody())
    async with (
        await Qemu.start("source", source, tmp) as here,
        await Qemu.start("destination", unprivileged, tmp, incoming="defer") as there,
    ):
        with pytest.raises(MigrationError, match=r"(?s)needs userfaultfd.*unprivileged_userfaultfd=1"):
            await completed(QmpMove(here.monitor, there.monitor, local(tmp), local(tmp), POSTCOPY))
        assert await here.monitor.status() == "running"

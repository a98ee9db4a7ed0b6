"""One migration of one guest: tracked by the events of both QEMUs, measured, and aborted after a timeout."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import LabError
from tunnel.bench.measure.migration_modes import MigrationMode
from tunnel.bench.measure.timeline import DESTINATION, EVENTS, SOURCE, MigrationTimeline
from tunnel.errors import HypervisorError
from tunnel.proof.cpu_time import CpuMeter, spent
from tunnel.proof.pattern_guest import PAGE
from tunnel.proof.verify import read_state
from tunnel.units import MIB
from tunnel.virt.polling import until
from tunnel.virt.qmp import Monitor

if TYPE_CHECKING:
    from qemu.qmp import EventListener

_LOOK = 0.02  # polling interval of processes and limits, in seconds
_SAMPLE = 0.25  # sampling interval of the guest's writes, in seconds
_PREPARATION = 60.0  # seconds allowed to the destination before the stream starts, and as many per GiB
_LAST_WORDS = 10.0  # seconds to wait for the remaining events after virsh has exited


@dataclass(frozen=True)
class Patience:
    """When a migration is aborted: after so many seconds of its stream, or passes over the memory."""

    seconds: float
    passes: int


@dataclass(frozen=True)
class CrossingOutcome:
    """The result of one migration. ``aborted``: why it was aborted; then the rest is up to that point.

    ``seconds``: from the start of the stream until the guest ran on the destination with all of its memory;
    ``wall_seconds``: of virsh, with libvirt's preparation and cleanup. ``stream_bytes_per_s`` is QEMU's
    figure, None where it has none; ``written_bytes_per_s`` is the guest's actual write rate meanwhile.
    """

    aborted: str
    seconds: float
    wall_seconds: float
    bytes: int
    stream_bytes_per_s: int | None
    downtime_seconds: float | None
    iterations: int
    written_bytes_per_s: int
    cpu_seconds: dict[str, dict[str, float]]


class Crossing:
    """Migrates ``guest`` from A to B of ``lab``, once. Not for coroutines: it runs its own event loop."""

    def __init__(self, lab: Lab, guest: LabGuest, mode: MigrationMode, patience: Patience) -> None:
        self._lab, self._guest, self._mode, self._patience = lab, guest, mode, patience
        self._course = MigrationTimeline()
        self._meter = CpuMeter()
        self._before: dict[tuple[str, str], float] = {}
        self._after: dict[tuple[str, str], float] = {}
        self._written: list[tuple[float, int]] = []  # time, and increments so far
        self._began_at = 0.0
        self._aborted = ""
        self._sent = 0

    def run(self) -> CrossingOutcome:
        """Migrate it. Raises LabError, with virsh's output, when it fails other than by being aborted."""
        started = time.monotonic()
        asyncio.run(self._run())
        return self._outcome(time.monotonic() - started)

    async def _run(self) -> None:
        async with await self._monitor(self._lab.a, within=10.0) as source:
            with source.listen(*EVENTS[SOURCE]) as events:
                self._watch_programs()
                await self._sample(source)
                virsh = self._lab.a.start(self._mode.command(self._guest.name, self._lab.b.plan))
                watching = [
                    asyncio.create_task(self._take(SOURCE, events)),
                    asyncio.create_task(self._watch_destination()),
                ]
                try:
                    await self._oversee(virsh, source)
                finally:
                    for task in watching:
                        task.cancel()
                    await asyncio.gather(*watching, return_exceptions=True)

    async def _monitor(self, host: LabHost, within: float) -> Monitor:
        path = host.plan.outside(self._guest.domain.monitor)
        return await Monitor.connect(path, f"{self._guest.name} on {host.name}", within=within)

    # Progress.

    async def _watch_destination(self) -> None:
        async with await self._monitor(self._lab.b, within=self._hard_limit) as destination:
            with destination.listen(*EVENTS[DESTINATION]) as events:
                await self._take(DESTINATION, events)

    async def _take(self, side: str, events: EventListener) -> None:
        async for event in events:
            self._course.note(side, event)
            if self._course.began is not None and not self._before:
                self._begin()
            if self._course.is_over and not self._after:
                self._after = self._meter.read()

    def _watch_programs(self) -> None:
        self._meter.watch(SOURCE, "qemu", self._lab.a.qemu_pid(self._guest.name))
        for side, host in ((SOURCE, self._lab.a), (DESTINATION, self._lab.b)):
            self._meter.watch(side, "libvirtd", host.libvirtd.pid)
            if self._mode.uses_mtunnel:
                self._meter.watch(side, "mtunnel", host.daemons[-1].pid)

    def _find_destination(self) -> None:
        """Look for the waiting QEMU before the stream starts, so that the search is not measured."""
        if not self._meter.watches(DESTINATION, "qemu") and self._lab.b.has_qemu(self._guest.name):
            with suppress(LabError):  # libvirt has not written its process id yet
                self._meter.watch(DESTINATION, "qemu", self._lab.b.qemu_pid(self._guest.name))

    def _begin(self) -> None:
        """Start measuring with the stream: earlier work, such as the start of QEMU, does not count."""
        self._began_at = time.monotonic()
        self._before = self._meter.read()
        self._find_destination()
        self._before = self._meter.read() | self._before

    async def _sample(self, source: Monitor) -> None:
        with suppress(HypervisorError):  # it has moved to the destination
            state = await read_state(source, self._guest.dumps)
            self._written.append((time.monotonic(), state.dirtied))

    # Completion and abort.

    @property
    def _hard_limit(self) -> float:
        gibibytes = self._guest.domain.memory / (1024 * MIB)
        return self._patience.seconds + _PREPARATION * (1 + gibibytes)

    async def _oversee(self, virsh: Started, source: Monitor) -> None:
        deadline = time.monotonic() + self._hard_limit
        while virsh.running:
            await asyncio.sleep(_LOOK)
            self._meter.read()
            self._find_destination()
            if self._course.stopped is None and time.monotonic() - self._written[-1][0] > _SAMPLE:
                await self._sample(source)
            if self._course.stopped is None and not self._aborted and (why := self._why_give_up()):
                await self._abort(why, source)
            if time.monotonic() > deadline:
                virsh.kill()
                raise LabError(f"{self._mode.name} timed out after {self._hard_limit:.0f} s{virsh.said()}")
        code = virsh.wait()
        if code != 0 and not self._aborted:
            raise LabError(f"{self._mode.name} failed{virsh.said()}")
        if code == 0:
            self._aborted = ""  # it completed before the abort
            await self._wait_over()
            if not self._meter.watches(DESTINATION, "qemu"):
                raise LabError(f"{self._mode.name}: no QEMU was found on {self._lab.b.name} in time")

    def _why_give_up(self) -> str:
        if not self._began_at:
            return ""
        if self._course.passes > self._patience.passes:
            return f"more than {self._patience.passes} passes"
        if time.monotonic() - self._began_at > self._patience.seconds:
            return f"more than {self._patience.seconds:.0f} s"
        return ""

    async def _abort(self, why: str, source: Monitor) -> None:
        with suppress(HypervisorError):
            answer = await source.execute("query-migrate")
            self._sent = int(answer.get("ram", {}).get("transferred", 0))
        # Refused when it has completed, or in post-copy, which cannot be undone: then it continues.
        done = self._lab.a.virsh("domjobabort", self._guest.name, check=False)
        if done.returncode == 0:
            self._aborted = why

    async def _wait_over(self) -> None:
        try:
            await until(lambda: self._course.is_over, within=_LAST_WORDS, every=_LOOK)
        except TimeoutError:
            raise LabError(f"{self._mode.name}: no events of QEMU for the switch-over") from None

    # Results.

    def _outcome(self, wall: float) -> CrossingOutcome:
        job = {} if self._aborted else _completed(self._lab.a, self._guest.name)
        seconds = self._course.seconds
        if seconds is None:  # aborted
            seconds = time.monotonic() - self._began_at
        stood = self._course.downtime
        return CrossingOutcome(
            aborted=self._aborted,
            seconds=round(seconds, 4),
            wall_seconds=round(wall, 2),
            bytes=job.get("memory_processed", self._sent),
            stream_bytes_per_s=job.get("memory_bps"),
            downtime_seconds=None if stood is None else round(stood, 4),
            iterations=job.get("memory_iteration", self._course.passes),
            written_bytes_per_s=written_rate(self._written, self._began_at),
            cpu_seconds=spent(self._before, self._after or self._meter.read()),
        )


def written_rate(samples: list[tuple[float, int]], began_at: float) -> int:
    """Return the bytes per second that a guest wrote since its stream ``began_at``.

    For a stream that was too short, the samples before it are included.
    """
    during = [sample for sample in samples if sample[0] >= began_at]
    if len(during) < 2:
        during = samples
    (first, written_first), (last, written_last) = during[0], during[-1]
    return round((written_last - written_first) * PAGE / (last - first)) if last > first else 0


def _completed(host: LabHost, guest: str) -> dict[str, int]:
    """Return QEMU's figures of the completed job, as stored by libvirt."""
    text = host.virsh("domjobinfo", guest, "--completed", "--rawstats").stdout
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): int(value) for key, _, value in pairs if value.strip().isdigit()}

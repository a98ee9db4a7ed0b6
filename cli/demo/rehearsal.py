"""The run of ``mtunnel demo``: migrate a guest through two daemons, verify it, and measure the CPU cost."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tunnel.cli.demo.display import Display
from tunnel.cli.demo.two_daemons import IngressKind, TwoDaemons
from tunnel.errors import MigrationError, UsageError
from tunnel.proof.accelerator import Accelerator, choose_accelerator
from tunnel.proof.cpu_time import process_seconds
from tunnel.proof.pattern_guest import Workload
from tunnel.proof.verified_pair import Trial
from tunnel.units import GIB, MIB, format_size
from tunnel.virt.move import MoveSummary
from tunnel.virt.move_options import MoveOptions

_WORKING_SET = 64 * MIB
_OVERHEAD = 512 * MIB  # two daemons, two QEMUs without their guest, this process
_LONGEST_PLACE = 60  # of the 107 bytes of a unix socket's path


class DemoMode(StrEnum):
    """The migration mode."""

    PRECOPY = "precopy"
    MULTIFD = "multifd"
    POSTCOPY = "postcopy"


@dataclass(frozen=True, slots=True)
class RehearsalPlan:
    """The parameters of one run: ``memory`` in bytes, ``dirty_rate`` in bytes per second."""

    mode: DemoMode
    memory: int
    dirty_rate: int
    ingress: IngressKind
    channels: int

    @property
    def workload(self) -> Workload:
        """What the guest does during the migration."""
        return Workload(min(_WORKING_SET, self.memory // 4), self.dirty_rate)

    @property
    def options(self) -> MoveOptions:
        """The options of the migration."""
        if self.mode is DemoMode.POSTCOPY:
            # Switch early, with a low downtime limit: pre-copy would otherwise complete first.
            return MoveOptions(postcopy=True, postcopy_preempt=None, switch_after=0, downtime_limit=0.001)
        return MoveOptions(parallel=self.channels if self.mode is DemoMode.MULTIFD else 0)


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """The result of a successful run. ``cpu`` is in seconds, by daemon (``hosta``, ``hostb``) and QEMU."""

    plan: RehearsalPlan
    accelerator: Accelerator
    lane: str
    cipher: str
    outcome: MoveSummary
    pages: int
    cpu: Mapping[str, float]

    def per_gib(self, process: str) -> float:
        """Return the CPU seconds of ``process`` per GiB that QEMU sent."""
        return self.cpu[process] / ((self.outcome.sent or 0) / GIB)


async def rehearse(plan: RehearsalPlan, accelerator: Accelerator | None, display: Display) -> RehearsalReport:
    """Run the whole demonstration; without ``accelerator``, detect one that works.

    Raises MigrationError when the migration failed, VerificationError when the guest's memory differs. On
    return, failure or cancellation, every process has ended and every file has been removed.
    """
    accelerator = accelerator or await choose_accelerator()
    display.step("accelerator", f"{accelerator.name}: {accelerator.reason}")
    with tempfile.TemporaryDirectory(prefix="mtunnel-demo-", dir=_short_place()) as name:
        directory = Path(name)
        async with await TwoDaemons.start(directory, plan.ingress) as stage:
            lane = (await stage.status("hosta"))["links"][0]["lanes"][0]
            display.step("daemons", f"hosta and hostb, one link: {lane['kind']} lane, {lane['cipher']}")
            async with await _start_guest(plan, accelerator, directory, display) as trial:
                outcome, cpu = await _move(plan, stage, trial, display)
                display.step("moved", f"{(outcome.sent or 0) // MIB} MiB in {outcome.seconds:.2f} s")
                with display.verification() as progress:
                    verified = await trial.verify(progress)
    return RehearsalReport(plan, accelerator, lane["kind"], lane["cipher"], outcome, verified.pages, cpu)


def require_memory(memory: int) -> None:
    """Raise UsageError when this machine has too little memory for two guests of ``memory`` bytes."""
    needed = 2 * memory + _OVERHEAD
    available = _available_memory()
    if needed > available:
        raise UsageError(
            f"two guests of {format_size(memory)} need {needed // MIB} MiB including overhead, "
            f"but only {available // MIB} MiB are available: use a smaller --memory"
        )


def _available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _short_place() -> str | None:
    """Return the directory for temporary files: None for the default, /tmp if its path is too long."""
    return None if len(tempfile.gettempdir()) <= _LONGEST_PLACE else "/tmp"  # noqa: S108  mode 0700 inside


async def _start_guest(
    plan: RehearsalPlan, accelerator: Accelerator, directory: Path, display: Display
) -> Trial:
    with display.waiting(f"filling {format_size(plan.memory)} of guest memory"):
        trial = await Trial.start(directory, plan.memory, plan.workload, accelerator=accelerator.name)
    rate = f"{format_size(plan.dirty_rate)}/s" if plan.dirty_rate else "nothing"
    display.step("guest", f"{format_size(plan.memory)} filled, now dirtying {rate}")
    return trial


async def _move(
    plan: RehearsalPlan, stage: TwoDaemons, trial: Trial, display: Display
) -> tuple[MoveSummary, Mapping[str, float]]:
    pids = {host: daemon.pid for host, daemon in stage.daemons.items()}
    pids |= {"source": trial.source.pid, "destination": trial.destination.pid}
    before = {name: process_seconds(pid) for name, pid in pids.items()}
    try:
        with display.migration() as progress:
            outcome = await trial.migrate(stage.route.ingress, stage.route.target, plan.options, progress)
    except MigrationError as error:
        raise MigrationError(f"{error}\n{stage.logs()}") from error
    cpu = {name: round(process_seconds(pid) - before[name], 2) for name, pid in pids.items()}
    return outcome, cpu

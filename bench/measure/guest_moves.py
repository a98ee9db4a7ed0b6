"""``bench migrate``: real guests migrated between the two hosts of the lab, in every mode, side by side.

Rounds alternate between the modes (A B C, A B C, …) so that a slow minute of the machine affects all of them.
Each migration has a new guest, which has just filled its memory; both QEMUs have touched theirs before the
stream starts. A figure counts only when every page was verified on the destination.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tunnel.bench.lab.configs import CONTROL
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.tools import version_said
from tunnel.bench.lab.waiting import LabError
from tunnel.bench.lab.wires import INTERFACES
from tunnel.bench.measure import contestants
from tunnel.bench.measure.convergence import RateSteps, Search
from tunnel.bench.measure.crossing import Crossing
from tunnel.bench.measure.guest_options import MigrateOptions
from tunnel.bench.measure.guest_records import Convergence, MeasuredMigration, Setting
from tunnel.bench.measure.migration_modes import EGRESS, INGRESSES, MigrationMode
from tunnel.bench.measure.results import Results
from tunnel.errors import TunnelError
from tunnel.proof.pattern_guest import Workload

GUEST = "web1"
Progress = Callable[[str], None]


@dataclass
class Moved:
    """The results of one run so far."""

    migrations: list[MeasuredMigration] = field(default_factory=list)
    limits: list[Convergence] = field(default_factory=list)


def announce(options: MigrateOptions, results: Results) -> None:
    """Write a record for each mode, and one with the reason for each that cannot be measured on a link."""
    libvirt = (
        f"libvirt {version_said('virsh', '--version')}, {version_said('qemu-system-x86_64', '--version')}"
    )
    (ours,) = contestants.choose(["mtunnel"])
    for mode in options.modes:
        version = f"{ours.version()}, {libvirt}" if mode.uses_mtunnel else libvirt
        results.add(
            "contestant",
            name=mode.name,
            settings=mode.settings,
            encrypts=mode.encrypts,
            relays=mode.uses_mtunnel,
            version=version,
        )
        for link in options.links:
            if reason := mode.missing(link):
                results.add("absent", name=mode.name, link_bits_per_s=link, missing=reason)


def run(options: MigrateOptions, congestion: str, results: Results, progress: Progress) -> Moved:
    """Measure all modes, round by round; add records to ``results``.

    A mode that fails in a setting is recorded, and skipped in that setting from then on.
    """
    with _directory() as home, Lab(home / "lab", congestion=congestion) as lab:
        if any(mode.postcopy for mode in options.modes):
            lab.allow_postcopy()
        if any(mode.uses_mtunnel for mode in options.modes):
            lab.start_daemons(INGRESSES, egress=EGRESS)
        return _MigrateRun(lab, options, results, progress).measure()


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory with a short path that QEMU, which may not be root, can traverse."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        home = Path(name)
        home.chmod(0o711)
        yield home


def move(
    lab: Lab, mode: MigrationMode, setting: Setting, number: int, options: MigrateOptions
) -> MeasuredMigration:
    """Start a guest on A, migrate it to B, and verify it where it then runs.

    Raises LabError when the migration fails, VerificationError when a page is wrong.
    """
    # It writes to all of its memory: a smaller part could be sent within the downtime at any write rate.
    workload = Workload(setting.guest_bytes, setting.dirty_bytes_per_s)
    guest = lab.start_guest(GUEST, memory=setting.guest_bytes, workload=workload, touched=True)
    lab.a.virsh("migrate-setmaxdowntime", GUEST, str(round(options.downtime * 1000)))
    patience = options.patience_of(setting.guest_bytes, setting.link_bits_per_s)
    with _holes(lab, mode), _resets(lab, mode, setting):
        outcome = Crossing(lab, guest, mode, patience).run()
    verified = guest.verify(lab.a if outcome.aborted else lab.b)
    return MeasuredMigration(
        mode=mode.name,
        round=number,
        guest_bytes=setting.guest_bytes,
        dirty_bytes_per_s=setting.dirty_bytes_per_s,
        link_bits_per_s=setting.link_bits_per_s,
        converged=not outcome.aborted,
        pages_verified=verified.pages,
        **asdict(outcome),
    )


@contextmanager
def _holes(lab: Lab, mode: MigrationMode) -> Iterator[None]:
    """Open the ports of the mode in B's firewall, and close them again."""
    if mode.ports:
        lab.b.firewall.open(*mode.ports)
    try:
        yield
    finally:
        if mode.ports:
            lab.b.firewall.shut(*mode.ports)


@contextmanager
def _resets(lab: Lab, mode: MigrationMode, setting: Setting) -> Iterator[None]:
    """Reset the lane ``mode.cuts`` times. Raises LabError when it was not, or did not resume."""
    if not mode.cuts:
        yield
        return
    link = partial(lab.a.daemons[-1].link, lab.b.name)
    every, before = setting.guest_bytes * 7 // 8 // mode.cuts, link()["resumes"]
    options = ("--interface", INTERFACES[0], "--every", str(every), "--count", str(mode.cuts))
    resetting = lab.a.start(
        [sys.executable, "-m", "tunnel.bench.measure.resets", str(PORT), CONTROL, *options]
    )
    try:
        yield
    finally:
        resetting.kill()
    done, resumed = len(resetting.output().splitlines()), link()["resumes"] - before
    if (done, resumed) != (mode.cuts, mode.cuts):
        raise LabError(f"the lane was reset {done} times instead of {mode.cuts}, and resumed {resumed} times")


class _MigrateRun:
    def __init__(self, lab: Lab, options: MigrateOptions, results: Results, progress: Progress) -> None:
        self._lab = lab
        self._options = options
        self._results = results
        self._progress = progress
        self._failed = set[tuple[str, Setting]]()
        self._found = Moved()

    def measure(self) -> Moved:
        for number in range(1, self._options.rounds + 1):
            for setting in self._options.settings:
                for mode in self._present(setting):
                    self._tell(number, f"{mode.name}, {setting}")
                    self._measure_one(mode, setting, number)
            if self._options.converge:
                self._search_all(number)
        return self._found

    def _present(self, setting: Setting) -> Sequence[MigrationMode]:
        """Shape the link for a setting, and return the modes to measure in it."""
        self._lab.shape(setting.link_bits_per_s)
        possible = (mode for mode in self._options.modes if not mode.missing(setting.link_bits_per_s))
        return [mode for mode in possible if (mode.name, setting) not in self._failed]

    def _measure_one(self, mode: MigrationMode, setting: Setting, number: int) -> None:
        moved = self._try(mode, setting, number)
        if moved is None:
            self._failed.add((mode.name, setting))
            return
        self._found.migrations.append(moved)
        self._results.add("migration", **asdict(moved))

    def _try(self, mode: MigrationMode, setting: Setting, number: int) -> MeasuredMigration | None:
        """Migrate a guest and remove it; return None, and record the reason, when that failed."""
        try:
            return move(self._lab, mode, setting, number, self._options)
        except TunnelError as error:
            where = {"round": number, **asdict(setting)}
            self._results.add("failure", contestant=mode.name, **where, reason=str(error))
            return None
        finally:
            if GUEST in self._lab.guests:
                self._lab.end_guest(GUEST)

    def _search_all(self, number: int) -> None:
        for link in self._options.links:
            for memory in self._options.memory:
                for mode in self._present(Setting(memory, 0, link)):
                    self._search(mode, memory, link, number)

    def _search(self, mode: MigrationMode, memory: int, link: int | None, number: int) -> None:
        grid = self._options.grid(link)
        search, best, probes = Search(grid), 0, 0
        while (rate := search.next_rate) is not None:
            setting = Setting(memory, rate, link)
            self._tell(number, f"{mode.name}, {setting}: does it converge?")
            moved = self._try(mode, setting, number)
            if moved is None:
                return
            within = moved.is_within(self._options.downtime)
            probes += 1
            search.tried(rate, converged=within)
            best = moved.written_bytes_per_s if within else best
            self._results.add("probe", within=within, **asdict(moved))
        self._keep_limit(mode, Setting(memory, search.limit, link), number, best, grid, probes)

    def _keep_limit(
        self, mode: MigrationMode, found: Setting, number: int, written: int, grid: RateSteps, probes: int
    ) -> None:
        limit = Convergence(
            mode=mode.name,
            round=number,
            guest_bytes=found.guest_bytes,
            link_bits_per_s=found.link_bits_per_s,
            downtime_limit_seconds=self._options.downtime,
            dirty_bytes_per_s=written,
            asked_bytes_per_s=found.dirty_bytes_per_s,
            step_bytes_per_s=grid.step,
            highest_bytes_per_s=grid.highest,
            probes=probes,
        )
        self._found.limits.append(limit)
        self._results.add("convergence", **asdict(limit))

    def _tell(self, number: int, what: str) -> None:
        self._progress(f"round {number} of {self._options.rounds}: {what}")

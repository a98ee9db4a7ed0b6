"""The sections of the report on migrations of guests, from a file of ``bench migrate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunnel.bench.measure.guest_records import TOLERANCE, Convergence, MeasuredMigration, link_text
from tunnel.bench.measure.measurement import OURS
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Bar, Chart, Row
from tunnel.bench.report.document import Block, DataTable, Section
from tunnel.bench.report.losses import Loss
from tunnel.bench.report.result_file import ResultFile
from tunnel.bench.report.summary_migrate import Comparison, compare, goal_text, in_setting, losses, settings
from tunnel.units import GIB, MIB

_PARTS = {
    f"{program} {side.upper()}": (side, program)
    for program in ("qemu", "libvirtd", "mtunnel")
    for side in ("a", "b")
}
_SPREAD = "The thin line spans the lowest and the highest round, the number is the median."


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the results of ``bench migrate``: rivals, each setting, and how fast guests may write."""
    moved, limits = file.build("migration", MeasuredMigration), file.build("convergence", Convergence)
    if moved or limits:
        rivalry = list(_rivalry(compare(moved, file.records), losses(moved, limits)))
        yield Section("Migrations: mtunnel against its rivals", rivalry)
    for setting in settings(moved):
        blocks = list(_migration_blocks(in_setting(moved, setting)))
        yield Section(f"Migration: {setting}", blocks)
    if limits:
        yield Section("The highest dirty rate that still converges", list(_convergence_blocks(limits)))


def _rivalry(compared: Sequence[Comparison], lost: Sequence[Loss]) -> Iterator[Block]:
    if compared:
        yield (
            "Throughput as a multiple of the rival's in the rounds in which both converged, the required "
            "minimum, and how many migrations of ours / of the rival's were aborted:"
        )
        headings = ["setting", "mode", "rival", "ratio", "must", "aim", "verdict", "aborted"]
        yield DataTable(headings, [_compared(comparison) for comparison in compared])
    else:
        yield "No mode of mtunnel's was measured beside one of its rivals."
    if lost:
        yield "Where the rival's median was better:"
        yield tuple(map(str, lost))
    elif compared:
        yield "No rival's median was better in time, CPU time, downtime or the highest dirty rate."


def _compared(c: Comparison) -> list[str]:
    goal, given_up = c.goal, " / ".join(map(str, c.given_up))
    figures = [str(c.ratio or "-"), goal_text(goal.must), goal_text(goal.aim), c.verdict, given_up]
    return [str(c.setting), c.who, goal.rival, *figures]


def _migration_blocks(moved: Sequence[MeasuredMigration]) -> Iterator[Block]:
    done = [migration for migration in moved if migration.converged]
    if done:
        yield Chart(
            "Throughput",
            "MiB/s",
            _rows(done, lambda migration: migration.mib_per_s),
            f"Longer is better: bytes that QEMU transferred, by the time of the whole migration. {_SPREAD}",
        )
        yield _stacked(done)
        yield Chart(
            "Downtime",
            "ms",
            _rows(done, _downtime_ms),
            "Shorter is better: how long the guest was stopped. QEMU uses up its downtime limit, so modes "
            f"differ less here than in throughput. {_SPREAD} Only migrations that converged.",
        )
    headings = ["mode", "rounds", "converged", "seconds", "downtime ms", "iterations", "sent / memory"]
    headings += ["MiB/s by QEMU", "guest wrote MiB/s", *(f"CPU s/GiB {part}" for part in _PARTS)]
    yield "Every page of every guest was verified after the migration. All figures, median (lowest-highest):"
    yield DataTable(headings, [_cells(mode, own) for mode, own in _by_mode(moved).items()])


def _by_mode(moved: Sequence[MeasuredMigration]) -> dict[str, list[MeasuredMigration]]:
    return {m.mode: [other for other in moved if other.mode == m.mode] for m in moved}


def _rows(moved: Sequence[MeasuredMigration], of: Callable[[MeasuredMigration], float]) -> list[Row]:
    spreads = {mode: Spread.of([of(m) for m in own]) for mode, own in _by_mode(moved).items()}
    return [Row(mode, [Bar.of(spread)], mode.startswith(OURS)) for mode, spread in spreads.items()]


def _stacked(moved: Sequence[MeasuredMigration]) -> Chart:
    rows = []
    for mode, own in _by_mode(moved).items():
        sides = [Spread.of([m.cpu_per_gib(side) for m in own]) for side in ("a", "b")]
        total = Spread.of([m.cpu_per_gib("a") + m.cpu_per_gib("b") for m in own])
        rows.append(Row(mode, [Bar([side.median for side in sides], total)], mode.startswith(OURS)))
    return Chart(
        "CPU time",
        "s/GiB",
        rows,
        f"Shorter is better: of QEMU, libvirtd and relay, at source (A) and destination (B). {_SPREAD}",
        series=("side A", "side B"),
    )


def _cells(mode: str, own: Sequence[MeasuredMigration]) -> list[str]:
    done = [migration for migration in own if migration.converged]
    stream = [m.stream_bytes_per_s / MIB for m in done if m.stream_bytes_per_s]
    parts = (f"{_part(own, side, program)}" for side, program in _PARTS.values())
    return [
        mode,
        str(len(own)),
        str(len(done)),
        str(Spread.of([m.seconds for m in own])),
        str(Spread.of([_downtime_ms(m) for m in done])) if done else "-",
        str(Spread.of([m.iterations for m in own])),
        str(Spread.of([m.sent_per_byte for m in own])),
        str(Spread.of(stream)) if stream else "-",
        str(Spread.of([m.written_bytes_per_s / MIB for m in own])),
        *parts,
    ]


def _part(own: Sequence[MeasuredMigration], side: str, program: str) -> str:
    """Return the median alone: the table is wide."""
    known = [m.cpu_per_gib(side, program) for m in own if m.bytes and program in m.cpu_seconds.get(side, {})]
    return f"{Spread.of(known).median:.2f}" if known else "-"


def _downtime_ms(migration: MeasuredMigration) -> float:
    return (migration.downtime_seconds or 0.0) * 1e3


def _convergence_blocks(found: Sequence[Convergence]) -> Iterator[Block]:
    for guest, link, limit in dict.fromkeys(map(_limits, found)):
        own = [c for c in found if _limits(c) == (guest, link, limit)]
        modes = {c.mode: [other for other in own if other.mode == c.mode] for c in own}
        rates = {mode: Spread.of([o.asked_bytes_per_s / MIB for o in every]) for mode, every in modes.items()}
        yield Chart(
            f"Convergence limit, {guest / GIB:g} GiB, {link_text(link)}",
            "MiB/s",
            [Row(mode, [Bar.of(rate)], mode.startswith(OURS)) for mode, rate in rates.items()],
            "Longer is better: with this configured write rate the migration of a guest converges, with a "
            f"downtime of at most {limit * 1e3:.0f} ms, or {TOLERANCE:g} times that, as QEMU overshoots its "
            f"limit. Found by bisection in steps of {own[0].step_bytes_per_s / MIB:.0f} MiB/s up to "
            f"{own[0].highest_bytes_per_s / MIB:.0f}; a guest that competes with its migration for the "
            f"processor writes less than configured, see the table. {_SPREAD}",
        )
        yield DataTable(
            ["mode", "configured, MiB/s", "wrote, MiB/s", ""], list(map(_limit_cells, modes.values()))
        )


def _limit_cells(own: Sequence[Convergence]) -> list[str]:
    asked = Spread.of([limit.asked_bytes_per_s / MIB for limit in own])
    wrote = Spread.of([limit.dirty_bytes_per_s / MIB for limit in own])
    note = "the highest rate tried" if all(limit.is_open for limit in own) else ""
    return [own[0].mode, str(asked), str(wrote), note]


def _limits(found: Convergence) -> tuple[int, int | None, float]:
    return found.guest_bytes, found.link_bits_per_s, found.downtime_limit_seconds

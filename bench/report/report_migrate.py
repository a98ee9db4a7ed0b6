"""What ``bench migrate`` found: rivals, each setting, and how fast guests may write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from tunnel.bench.measure.guest_records import TOLERANCE, Convergence, MeasuredMigration, link_text
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import Block, Cell, DataTable, Marked, Section
from tunnel.bench.report.losses import Loss
from tunnel.bench.report.mode_names import encrypts, label
from tunnel.bench.report.reached import tone_of
from tunnel.bench.report.result_file import ResultFile
from tunnel.bench.report.standing import Entrant, joined, rows
from tunnel.bench.report.summary_migrate import Comparison, compare, in_setting, losses, settings
from tunnel.units import GIB, MIB

PROGRAMS = ("mtunnel", "qemu", "libvirtd")

Runs = Mapping[str, Sequence[MeasuredMigration]]
"""Migrations in one setting, by the name of the run."""

Limit = tuple[int, int | None, float]
"""Guest bytes, bits per second of the link, and the downtime limit in seconds of a search."""


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the comparison with the rivals, a section for each setting, and one on convergence."""
    moved, limits = migrations(file), convergences(file)
    if moved or limits:
        yield Section("Migrations: mtunnel against its rivals", [_rivalry(compare(moved, file.records))])
    for setting in settings(moved):
        blocks = list(_setting_blocks(in_setting(moved, setting)))
        yield Section(f"Migration: {setting}", blocks)
    if limits:
        blocks = [block for limit in searches(limits) for block in _search_blocks(limits, limit)]
        yield Section("The highest dirty rate that converges", blocks)


def migrations(file: ResultFile) -> list[MeasuredMigration]:
    """Return the measured migrations of a run."""
    return file.build("migration", MeasuredMigration)


def convergences(file: ResultFile) -> list[Convergence]:
    """Return the results of the searches of a run."""
    return file.build("convergence", Convergence)


def lost(file: ResultFile) -> list[Loss]:
    """Return where a rival of one of our modes was better."""
    return losses(migrations(file), convergences(file))


def _rivalry(compared: Sequence[Comparison]) -> Block:
    if not compared:
        return "No mode of mtunnel was measured beside one of its rivals."
    headings = ["setting", "mode", "rival", "ratio of throughput", "must", "aim", "verdict"]
    rows = [_compared(comparison) for comparison in compared]
    return DataTable([*headings, "aborted, ours / the rival's"], rows, words=True)


def _compared(c: Comparison) -> list[Cell]:
    goal, given_up = c.goal, " / ".join(map(str, c.given_up))
    bounds = [str(c.ratio or "-"), _goal_text(goal.must), _goal_text(goal.aim)]
    return [
        str(c.setting),
        _who(c),
        label(goal.rival),
        *bounds,
        Marked(c.verdict, tone_of(c.verdict)),
        given_up,
    ]


def _who(c: Comparison) -> str:
    return label(c.ours) if c.ours == c.goal.ours else f"{c.goal.ours}: {label(c.ours)}"


def _goal_text(goal: float | None) -> str:
    return "-" if goal is None else f"{goal:g}"


# -- one setting ---------------------------------------------------------------------------------------------


def throughput(moved: Sequence[MeasuredMigration]) -> list[Entrant]:
    """Return MiB/s by mode."""
    return _entrants(moved, lambda m: m.mib_per_s)


def cpu_time(moved: Sequence[MeasuredMigration]) -> list[Entrant]:
    """Return CPU seconds per GiB of both hosts by mode, with the parts of ``PROGRAMS``."""
    return [
        Entrant(e.name, e.label, e.encrypts, e.figures, [_parts([m for m in moved if m.mode == e.name])])
        for e in _entrants(moved, lambda m: m.cpu_per_gib("a") + m.cpu_per_gib("b"))
    ]


def _entrants(moved: Sequence[MeasuredMigration], of: Callable[[MeasuredMigration], float]) -> list[Entrant]:
    done = [migration for migration in moved if migration.converged]
    return [
        Entrant(mode, label(mode), encrypts(mode), [{m.round: of(m) for m in done if m.mode == mode}])
        for mode in dict.fromkeys(migration.mode for migration in done)
    ]


def _parts(moved: Sequence[MeasuredMigration]) -> list[float]:
    done = [m for m in moved if m.converged]
    return [median(m.cpu_per_gib("a", p) + m.cpu_per_gib("b", p) for m in done) for p in PROGRAMS]


def throughput_chart(runs: Runs) -> Chart:
    """Return the throughput of the migrations in one setting."""
    drawn = rows(joined([throughput(moved) for moved in runs.values()]), least_is_best=False)
    reading = "Longer is better: bytes that QEMU transferred, by the time of the whole migration."
    return Chart("Throughput", "MiB/s", drawn, reading, series=_several(runs))


def cpu_chart(runs: Runs) -> Chart:
    """Return the CPU time of the migrations in one setting, split by program."""
    reading = (
        "Shorter is better: processor time of both hosts for each GiB, by program. Medians of the parts need "
        "not add up to that of the sum."
    )
    drawn = rows(joined([cpu_time(moved) for moved in runs.values()]), least_is_best=True)
    programs = ("mtunnel", "QEMU", "libvirt")
    return Chart("CPU time", "s/GiB", drawn, reading, series=programs, bars=_several(runs))


def _several(runs: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(runs) if len(runs) > 1 else ()


def _setting_blocks(moved: Sequence[MeasuredMigration]) -> Iterator[Block]:
    if any(migration.converged for migration in moved):
        yield throughput_chart({"": moved})
        yield cpu_chart({"": moved})
        yield Chart(
            "Downtime",
            "ms",
            rows(_entrants(moved, _downtime_ms), least_is_best=True),
            "Shorter is better: how long the guest was stopped. QEMU uses all of its downtime limit, so "
            "modes differ less here than in throughput. Only migrations that converged.",
        )
    by_mode = {m.mode: [other for other in moved if other.mode == m.mode] for m in moved}
    yield "Every page of every guest was verified after the migration. Median (lowest-highest):"
    headings = ["mode", "converged", "seconds", "MiB/s", "downtime ms", "passes"]
    headings += ["sent / memory", "guest wrote MiB/s"]
    yield DataTable(headings, [_times(mode, own) for mode, own in by_mode.items()])
    headings = [f"{program} {side.upper()}" for program in PROGRAMS for side in "ab"]
    yield "CPU seconds per GiB by program and host, medians; A is the source:"
    yield DataTable(["mode", *headings, "all"], [_cpu_cells(mode, own) for mode, own in by_mode.items()])
    reasons = {mode: reason for mode, own in by_mode.items() if (reason := _aborted(own))}
    if reasons:
        yield tuple(f"{label(mode)}: {reason}" for mode, reason in reasons.items())


def _times(mode: str, own: Sequence[MeasuredMigration]) -> list[str]:
    done = [migration for migration in own if migration.converged]
    return [
        label(mode),
        f"{len(done)} of {len(own)}",
        str(Spread.of([m.seconds for m in own])),
        _spread([m.mib_per_s for m in done]),
        _spread([_downtime_ms(m) for m in done]),
        f"{median(m.iterations for m in own):g}",
        str(Spread.of([m.sent_per_byte for m in own])),
        _spread([m.written_bytes_per_s / MIB for m in own if m.dirty_bytes_per_s]),
    ]


def _spread(values: Sequence[float]) -> str:
    return str(Spread.of(values)) if values else "-"


def _cpu_cells(mode: str, own: Sequence[MeasuredMigration]) -> list[str]:
    parts = [_part(own, side, program) for program in PROGRAMS for side in "ab"]
    return [
        label(mode),
        *parts,
        f"{median(m.cpu_per_gib('a') + m.cpu_per_gib('b') for m in own if m.bytes):.2f}",
    ]


def _part(own: Sequence[MeasuredMigration], side: str, program: str) -> str:
    known = [m.cpu_per_gib(side, program) for m in own if m.bytes and program in m.cpu_seconds.get(side, {})]
    return f"{median(known):.2f}" if known else "-"


def _aborted(own: Sequence[MeasuredMigration]) -> str:
    aborted = [migration.aborted for migration in own if not migration.converged]
    return f"{len(aborted)} aborted: {aborted[0]}" if aborted else ""


def _downtime_ms(migration: MeasuredMigration) -> float:
    return (migration.downtime_seconds or 0.0) * 1e3


# -- convergence ---------------------------------------------------------------------------------------------


def searches(found: Sequence[Convergence]) -> list[Limit]:
    """Return the parameters of the searches of a run, in order."""
    return list(dict.fromkeys(map(_limit, found)))


def highest_rates(found: Sequence[Convergence], limit: Limit) -> list[Entrant]:
    """Return the highest configured dirty rate in MiB/s, by mode."""
    own = [c for c in found if _limit(c) == limit]
    return [
        Entrant(
            mode,
            label(mode),
            encrypts(mode),
            [{c.round: c.asked_bytes_per_s / MIB for c in own if c.mode == mode}],
        )
        for mode in dict.fromkeys(c.mode for c in own)
    ]


def convergence_chart(runs: Mapping[str, Sequence[Convergence]], limit: Limit) -> Chart:
    """Return the highest dirty rates of searches with the same parameters, by the name of the run."""
    guest, link, downtime = limit
    own = next(c for found in runs.values() for c in found if _limit(c) == limit)
    drawn = rows(joined([highest_rates(found, limit) for found in runs.values()]), least_is_best=False)
    return Chart(
        f"Highest dirty rate, {guest / GIB:g} GiB, {link_text(link)}",
        "MiB/s",
        drawn,
        "Longer is better: with this configured write rate of the guest a migration converges, with a "
        f"downtime of at most {downtime * 1e3:.0f} ms, or {TOLERANCE:g} times that, as QEMU overshoots its "
        f"limit. Found by bisection in steps of {own.step_bytes_per_s / MIB:.0f} MiB/s up to "
        f"{own.highest_bytes_per_s / MIB:.0f}; a guest that competes with its migration for the "
        "processor writes less than configured.",
        series=_several(runs),
    )


def _search_blocks(found: Sequence[Convergence], limit: Limit) -> Iterator[Block]:
    yield convergence_chart({"": found}, limit)
    own = [c for c in found if _limit(c) == limit]
    by_mode = {c.mode: [other for other in own if other.mode == c.mode] for c in own}
    yield DataTable(
        ["mode", "configured, MiB/s", "wrote, MiB/s", ""], list(map(_limit_cells, by_mode.values()))
    )


def _limit_cells(own: Sequence[Convergence]) -> list[str]:
    asked = Spread.of([limit.asked_bytes_per_s / MIB for limit in own])
    wrote = Spread.of([limit.dirty_bytes_per_s / MIB for limit in own])
    note = "the highest rate tried" if all(limit.is_open for limit in own) else ""
    return [label(own[0].mode), str(asked), str(wrote), note]


def _limit(found: Convergence) -> Limit:
    return found.guest_bytes, found.link_bits_per_s, found.downtime_limit_seconds

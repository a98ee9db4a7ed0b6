"""The part of the report about guests that migrate, as far as a file of ``bench migrate`` exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunnel.bench.charts import Bar, Chart, Row
from tunnel.bench.document import Block, Grid, Section
from tunnel.bench.figures import GIB, MIB, Spread
from tunnel.bench.losses import OURS
from tunnel.bench.migration import Convergence, Migration, link_text
from tunnel.bench.resultfile import ResultFile

_SPREAD = "The thin line spans the lowest and the highest round, the number is the median."


def sections(file: ResultFile) -> Iterator[Section]:
    """Return what ``bench migrate`` found: each setting, then how fast a guest may write."""
    moved = file.build("migration", Migration)
    for setting in dict.fromkeys(migration.setting for migration in moved):
        own = [migration for migration in moved if migration.setting == setting]
        yield Section(f"Migration: {setting}", list(_migration_blocks(own)))
    if found := file.build("convergence", Convergence):
        yield Section("The highest dirty rate that still converges", list(_convergence_charts(found)))


def _migration_blocks(moved: Sequence[Migration]) -> Iterator[Block]:
    done = [migration for migration in moved if migration.converged]
    if done:
        yield Chart(
            "Throughput",
            "MiB/s",
            _rows(done, lambda migration: migration.mib_per_s),
            f"Longer is better: what QEMU transferred, by the time of the whole migration. {_SPREAD}",
        )
        yield _stacked(done)
        yield Chart(
            "Downtime",
            "ms",
            _rows(done, lambda migration: migration.downtime_seconds * 1e3),
            f"Shorter is better: how long the guest stood still. {_SPREAD} Only migrations that converged.",
        )
    headings = ["mode", "rounds", "converged", "seconds", "downtime ms", "iterations"]
    yield Grid(headings, [_cells(mode, own) for mode, own in _by_mode(moved).items()])


def _by_mode(moved: Sequence[Migration]) -> dict[str, list[Migration]]:
    return {m.mode: [other for other in moved if other.mode == m.mode] for m in moved}


def _rows(moved: Sequence[Migration], of: Callable[[Migration], float]) -> list[Row]:
    spreads = {mode: Spread.of([of(m) for m in own]) for mode, own in _by_mode(moved).items()}
    return [Row(mode, [Bar.of(spread)], mode.startswith(OURS)) for mode, spread in spreads.items()]


def _stacked(moved: Sequence[Migration]) -> Chart:
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


def _cells(mode: str, own: Sequence[Migration]) -> list[str]:
    done = [migration for migration in own if migration.converged]
    downtime = str(Spread.of([m.downtime_seconds * 1e3 for m in done])) if done else "-"
    return [
        mode,
        str(len(own)),
        str(len(done)),
        str(Spread.of([m.seconds for m in own])),
        downtime,
        str(Spread.of([m.iterations for m in own])),
    ]


def _convergence_charts(found: Sequence[Convergence]) -> Iterator[Chart]:
    for guest, link, limit in dict.fromkeys(map(_limits, found)):
        own = [c for c in found if _limits(c) == (guest, link, limit)]
        rates = {c.mode: Spread.of([o.dirty_bytes_per_s / MIB for o in own if o.mode == c.mode]) for c in own}
        yield Chart(
            f"Convergence limit, {guest / GIB:g} GiB, {link_text(link)}",
            "MiB/s",
            [Row(mode, [Bar.of(rate)], mode.startswith(OURS)) for mode, rate in rates.items()],
            "Longer is better: a guest may write this fast and its migration still ends by itself, standing "
            f"still for at most {limit * 1e3:.0f} ms. {_SPREAD}",
        )


def _limits(found: Convergence) -> tuple[int, int | None, float]:
    return found.guest_bytes, found.link_bits_per_s, found.downtime_limit_seconds

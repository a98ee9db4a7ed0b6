"""What ``bench memory`` found: resident memory of both sides in each state."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Bar, Chart, Row
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.mode_names import is_ours
from tunnel.bench.report.result_file import Fields, ResultFile
from tunnel.units import MIB

_STATES = {
    "idle": "idle",
    "bulk": "one bulk stream",
    "filled": "stalled reader",
    "many": "64 streams, 32 stalled",
}


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the results of ``bench memory``."""
    records = file.of_kind("measurement")
    states = {key: name for key, name in _STATES.items() if all(key in record for record in records)}
    rows = [_row(record, side, list(states)) for record in records for side in ("a", "b")]
    chart = Chart(
        "Resident memory",
        "MiB",
        rows,
        "Shorter is better; the peak of each side in each state. Measured once: no spread. "
        "It must not grow over time while a reader stalls: the column growth of the table.",
        series=tuple(states.values()),
    )
    grid = DataTable(
        ["MiB, side A / B", *states.values(), "growth", "taken when stalled"],
        [_cells(record, [*states, "growth"]) for record in records],
    )
    yield Section("Memory", [chart, grid] if records else ["Nothing was measured."])


def _row(record: Fields, side: str, states: list[str]) -> Row:
    sizes = [record[state][side] / MIB for state in states]
    bars = [Bar.of(Spread(size, size, size)) for size in sizes]
    return Row(f"{record['contestant']} {side.upper()}", bars, is_ours(record["contestant"]))


def _cells(record: Fields, states: list[str]) -> list[str]:
    sides = [f"{record[key]['a'] / MIB:.1f} / {record[key]['b'] / MIB:.1f}" for key in states]
    return [record["contestant"], *sides, f"{record['accepted'] / MIB:.1f}"]

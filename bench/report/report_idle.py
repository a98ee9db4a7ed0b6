"""The section of the report on daemons with idle links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunnel.bench.measure.idle import DIRECTIONS, IdleOutcome
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.result_file import ResultFile
from tunnel.units import KIB, MIB

_READING = (
    "One daemon with one link to each of many peers, and no stream. Links are accepted from the peers, or "
    "dialed by the daemon, which then has an ingress for each. CPU time is that of the daemon's process."
)
_COLUMNS: dict[str, Callable[[IdleOutcome], float]] = {
    "% of a core": lambda each: 100 * each.core,
    "µs/s for each link": lambda each: 1e6 * each.cpu_each,
    "resident MiB": lambda each: each.resident / MIB,
    "peak MiB": lambda each: each.peak / MIB,
    "KiB for each link": lambda each: each.bytes_each / KIB,
    "s until all are up": lambda each: each.up_seconds,
    "CPU s until then": lambda each: each.up_cpu,
}


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the results of ``bench idle``."""
    found = file.build("idle", IdleOutcome)
    by_direction = {name: [each for each in found if each.direction == name] for name in DIRECTIONS}
    rows = [_row(name, rounds) for name, rounds in by_direction.items() if rounds]
    grid = DataTable(["links", "up at the end", "lost", *_COLUMNS], rows)
    yield Section("Idle links", [_READING, grid] if rows else ["Nothing was measured."])


def _row(direction: str, rounds: Sequence[IdleOutcome]) -> list[str]:
    fewest, lost = min(each.up for each in rounds), sum(each.lost for each in rounds)
    figures = [str(Spread.of([of(each) for each in rounds])) for of in _COLUMNS.values()]
    return [f"{rounds[0].links} {direction}", str(fewest), str(lost), *figures]

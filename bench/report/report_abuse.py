"""What ``bench abuse`` found: bulk under abuse, and a stream beside stalled ones."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.measure.beside import GOAL
from tunnel.bench.measure.hostile import STREAMS
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.document import Cell, DataTable, Marked, Section
from tunnel.bench.report.result_file import Fields, ResultFile
from tunnel.units import MIB

_HEADINGS = (
    *("abuse", "ratio", "goal", "plain listener", "MiB/s", "attacker CPU", "per second"),
    *("lanes lost", "lane replaced ms", "data gap ms"),
)
_BESIDE = ("case", "ratio", "goal", "MiB/s alone", "added resident MiB, A / B", "bound, A / B")


def sections(file: ResultFile) -> Iterator[Section]:
    """Return a section on attackers, and one on stalled streams."""
    if verdicts := file.of_kind("verdict"):
        reading = "Throughput of bulk under abuse, as a fraction of bulk alone, median (lowest-highest)."
        yield Section("Abuse", [reading, DataTable(_HEADINGS, list(map(_verdict, verdicts)))])
    if beside := file.of_kind("beside"):
        reading = f"Throughput of one stream beside {STREAMS} stalled ones, as a fraction of that alone."
        yield Section("Beside stalled streams", [reading, DataTable(_BESIDE, list(map(_beside, beside)))])


def _verdict(record: Fields) -> list[Cell]:
    plain = record["plain_ratio"]
    return [
        record["abuser"],
        _ratio(record),
        f"{record['goal']:.2f}",
        str(Spread(**plain)) if plain else "-",
        f"{record['mib_per_s']['median']:.0f}",
        f"{record['attacker']['median']:.0%}",
        ", ".join(f"{value:.0f} {key}" for key, value in record["per_second"].items()),
        str(record["lost"]),
        *(_milliseconds(record[key]) for key in ("slowest", "gap")),
    ]


def _beside(record: Fields) -> list[Cell]:
    speeds = [record["bytes"] / MIB / seconds for seconds in record["alone_seconds"]]
    sides = [f"{record[key]['a'] / MIB:.0f} / {record[key]['b'] / MIB:.0f}" for key in ("growth", "bounds")]
    return [record["case"], _ratio(record), f"{GOAL:.2f}", f"{Spread.of(speeds).median:.0f}", *sides]


def _ratio(record: Fields) -> Marked:
    return Marked(str(Spread(**record["ratio"])), "good" if record["reached"] else "bad")


def _milliseconds(seconds: float | None) -> str:
    return "failed" if seconds is None else f"{seconds * 1000:.0f}"

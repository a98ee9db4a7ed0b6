"""``bench readme``: the table, the chart and the relays of README.md, from committed result files.

All figures come from these files, none is copied by hand; a test compares README.md with them. To publish a
new comparison: measure, commit the file, name it here, run ``./run bench readme``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunnel.bench.measure.guest_records import MeasuredMigration
from tunnel.bench.measure.measurement import OURS, Case
from tunnel.bench.measure.stats import Spread, ratio
from tunnel.bench.report import markdown
from tunnel.bench.report.budget import openssl_of
from tunnel.bench.report.charts import Bar, Chart, Mark, Row, picture
from tunnel.bench.report.document import DataTable, Document, Section
from tunnel.bench.report.mode_names import is_ours, label
from tunnel.bench.report.origin import machine, release
from tunnel.bench.report.result_file import ResultFile, measured, read
from tunnel.bench.report.standing import standing
from tunnel.bench.report.summary import BASE
from tunnel.errors import UsageError
from tunnel.units import GIB

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
RESULTS = ROOT / "bench" / "data"
GOALS = ("20261130T233940Z-goals.jsonl", "20261201T000636Z-goals.jsonl")
"""Runs of ``bench goals``, one for each release, the newest release first."""

WAYS = ("mtunnel", "mtunnel-multifd-4", "multifd-tls-4", "native-tls", "tunnelled-tls")
_VERDICTS: Mapping[Mark, str] = {"wins": "wins", "level": "is level", "loses": "**loses**"}
CHART = Path("docs/throughput.svg")
_BEGIN, _END = "<!-- figures: written by ./run bench readme -->\n", "<!-- end of figures -->\n"


def write(root: Path) -> list[Path]:
    """Write both files below ``root``, a checkout; return them. Raises UsageError without the markers."""
    page, chart = root / "README.md", root / CHART
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UsageError(f"{page} lacks the lines {_BEGIN.strip()} and {_END.strip()}; add both")
    page.write_text(before + begin + text() + end + after)
    chart.write_text(svg())
    return [page, chart]


def text() -> str:
    """Return the text between the markers."""
    moved, relays = _runs("migrate"), _runs("relay")
    table = markdown.render(Document("", [Section("", [_table(moved)])])).partition("|")
    parts = [f"![Throughput by way and release]({CHART})", _heading(moved), "".join(table[1:]).strip()]
    standing = [*map(_against_rivals, moved), *map(_against_haproxy, relays)]
    return "\n\n".join(parts) + "\n\n" + "\n".join(f"- {line}" for line in standing) + "\n"


def svg() -> str:
    """Return the chart: throughput of each migration method, one bar for each release."""
    moved = _runs("migrate")
    rows = [
        Row(label(mode), [Bar.of(_throughput(file, mode)) for file in moved], is_ours(mode)) for mode in WAYS
    ]
    title = f"Migration of an idle guest of {_guest(moved[0])} GiB"
    return picture(Chart(title, "MiB/s", rows, "", series=[release(file) for file in moved]))


def _runs(benchmark: str) -> list[ResultFile]:
    """Return the part of each of the files that ``benchmark`` measured."""
    return [part for name in GOALS for part in read(RESULTS / name) if part.run["benchmark"] == benchmark]


def _of(file: ResultFile, mode: str) -> list[MeasuredMigration]:
    found = [m for m in file.build("migration", MeasuredMigration) if m.mode == mode and m.converged]
    if not found:
        raise UsageError(f"{file.path} has no migration in mode {mode}")
    return found


def _guest(file: ResultFile) -> str:
    return f"{_of(file, OURS)[0].guest_bytes / GIB:g}"


def _throughput(file: ResultFile, mode: str) -> Spread:
    return Spread.of([m.mib_per_s for m in _of(file, mode)])


def _cpu(file: ResultFile, mode: str) -> Spread:
    return Spread.of([m.cpu_per_gib("a") + m.cpu_per_gib("b") for m in _of(file, mode)])


def _heading(files: Sequence[ResultFile]) -> str:
    machines = " and ".join(sorted({machine(file) for file in files}))
    days = " and ".join(sorted({file.when[:10] for file in files}))
    rounds = min(len(_of(file, mode)) for file in files for mode in WAYS)
    return (
        f"An idle guest of {_guest(files[0])} GiB, two hosts on one machine ({machines}, {days}), medians of "
        f"{rounds} rounds\n(lowest-highest), CPU time of both hosts with QEMU and libvirt; the best in bold:"
    )


def _table(files: Sequence[ResultFile]) -> DataTable:
    """Return the table: throughput and CPU time of each release, the best median of each in bold."""
    columns = [
        (f"{unit}, {release(file)}", [of(file, mode) for mode in WAYS], best, digits)
        for file in files
        for unit, of, best, digits in (("MiB/s", _throughput, max, 0), ("CPU s/GiB", _cpu, min, 2))
    ]
    cells = [
        [_cell(spread, digits, is_best=spread == best(spreads, key=_median)) for spread in spreads]
        for _, spreads, best, digits in columns
    ]
    return DataTable(
        ["way", *(heading for heading, *_ in columns)], list(zip(map(label, WAYS), *cells, strict=True))
    )


def _median(spread: Spread) -> float:
    return spread.median


def _cell(spread: Spread, digits: int, *, is_best: bool) -> str:
    median = f"{spread.median:.{digits}f}"
    return f"{f'**{median}**' if is_best else median} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"


def _against_rivals(file: ResultFile) -> str:
    """Return a sentence that compares mtunnel's fastest method with the fastest of its rivals, by round."""
    ours, theirs = (
        max((mode for mode in WAYS if is_ours(mode) is own), key=lambda m: _throughput(file, m).median)
        for own in (True, False)
    )
    spread = ratio(_by_round(file, ours), _by_round(file, theirs))
    if spread is None:
        raise UsageError(f"{file.path} has no round with both {ours} and {theirs}")
    return (
        f"{_system(file)}: mtunnel's best way {_VERDICTS[standing(spread)]}: {spread.median:.2f} "
        f"({spread.low:.2f}-{spread.high:.2f}) times the best rival's throughput ({label(theirs)})."
    )


def _by_round(file: ResultFile, mode: str) -> dict[int, float]:
    return {m.round: m.mib_per_s for m in _of(file, mode)}


def _against_haproxy(file: ResultFile) -> str:
    """Return a sentence that compares mtunnel with HAProxy: one stream through two relays, without QEMU."""
    spread = ratio(_relay_cpu(file, BASE), _relay_cpu(file, OURS))
    (record,) = (r for r in file.of_kind("contestant") if r["name"] == BASE)
    version, openssl = re.search(r"\d+\.\d+", str(record["version"])), openssl_of(file)
    if spread is None or version is None or openssl is None:
        raise UsageError(f"{file.path} has no {BASE} beside {OURS}")
    (ours,) = (r for r in file.of_kind("contestant") if r["name"] == OURS)
    engine = re.search(r"engine: compiled, with (\S+)", str(ours["version"]))
    which = f" (compiled engine, {engine[1]})" if engine else ""
    return (
        f"{_system(file)}, bare relay, {machine(file)}: mtunnel{which} {_VERDICTS[standing(spread)]}: "
        f"HAProxy {version[0]} on OpenSSL {openssl[0]}.{openssl[1]} takes "
        f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f}) times its CPU per GiB."
    )


def _relay_cpu(file: ResultFile, name: str) -> dict[int, float]:
    transfers = measured(file).transfers
    return {m.round: m.relay_cpu for m in transfers if m.contestant == name and m.case == Case("tcp", 1)}


def _system(file: ResultFile) -> str:
    return release(file).partition(" (")[0]

"""The goals of mtunnel, each once, with the figure of the newest run that measured it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tunnel.bench.report import budget
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.origin import release
from tunnel.bench.report.reached import HEADINGS, Reached
from tunnel.bench.report.result_file import ResultFile

_READING = (
    "Each figure is that of the newest run that measured it: the median, with the lowest and the highest "
    "round; ratios within a round. The median decides. That no payload enters the process of a kernel lane "
    "is checked by tests, not measured."
)


def section(files: Sequence[ResultFile], *, runs: bool = True) -> Section:
    """Return the number of goals by verdict, and the verdict on each, with its run if ``runs``."""
    rows = verdicts(files)
    often = Counter(row.verdict.partition(":")[0] for row in rows)
    counts = ", ".join(f"{often[verdict]} {verdict}" for verdict in _VERDICTS if often[verdict])
    width = len(HEADINGS) if runs else HEADINGS.index("run")
    table = DataTable(HEADINGS[:width], [row.cells()[:width] for row in rows], words=True)
    return Section("Goals of mtunnel", [f"{len(rows)} goals: {counts}.", _READING, table])


def verdicts(files: Sequence[ResultFile]) -> list[Reached]:
    """Return the verdict on each goal; a goal for several cases has a row for each case of its run."""
    rows: list[Reached] = []
    newest_first = sorted(files, key=lambda file: file.when, reverse=True)
    for benchmark, reached in _BENCHMARKS.items():
        runs = [
            [replace(row, run=f"{release(file)}, {file.when}") for row in reached(file)]
            for file in newest_first
            if file.benchmark == benchmark
        ]
        unmeasured = list(reached(None))
        for goal in dict.fromkeys(row.what for row in unmeasured):
            rows += _newest(goal, [*runs, unmeasured])
    return rows


def _newest(goal: str, runs: Sequence[Sequence[Reached]]) -> list[Reached]:
    """Return the rows of a goal from the first run that measured it, or else from the first."""
    found = [[row for row in run if row.what == goal] for run in runs]
    return next((rows for rows in found if any(row.is_measured for row in rows)), found[0])


_VERDICTS = ("as aimed at", "met", "missed", "not measured")

_BENCHMARKS: Mapping[str, Callable[[ResultFile | None], Iterator[Reached]]] = {
    "relay": budget.relay,
    "migrate": budget.migrate,
    "memory": budget.memory,
    "scale": budget.scale,
    "idle": budget.idle,
}

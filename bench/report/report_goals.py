"""The section of the report that compares the figures of all files with the goals of mtunnel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tunnel.bench.report import budget
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.reached import HEADINGS, Reached
from tunnel.bench.report.result_file import ResultFile

_READING = (
    "Medians, with the lowest and the highest round; ratios within a round. The median decides whether a "
    "figure is as aimed at, met or missed, on the release that it was measured on. That no payload enters "
    "the process of a kernel lane is checked by tests, not measured."
)


def section(files: Sequence[ResultFile]) -> Section:
    """Return the verdicts with a note on how to read them."""
    return Section("Goals of mtunnel", [_READING, verdicts(files)])


def verdicts(files: Sequence[ResultFile]) -> DataTable:
    """Return the verdict of ``files`` on each goal; several files of one benchmark have separate rows."""
    rows: list[Reached] = []
    for benchmark, reached in _BENCHMARKS.items():
        of_it = [file for file in files if file.benchmark == benchmark]
        several = len(of_it) > 1
        own = [
            replace(row, when=file.when if several else "", release=_release(file))
            for file in of_it
            for row in reached(file)
        ]
        rows += own or reached(None)
    return DataTable(HEADINGS, [row.cells() for row in rows])


def _release(file: ResultFile) -> str:
    return str(file.run.get("machine", {}).get("system", "")).replace(" GNU/Linux", "")


_BENCHMARKS: Mapping[str, Callable[[ResultFile | None], Iterator[Reached]]] = {
    "relay": budget.relay,
    "migrate": budget.migrate,
    "memory": budget.memory,
    "scale": budget.scale,
    "idle": budget.idle,
}

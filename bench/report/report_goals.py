"""The part of the report that holds the figures of all files against what mtunnel is to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tunnel.bench.report import budget
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.reached import HEADINGS, Reached
from tunnel.bench.report.result_file import ResultFile

_READING = (
    "Medians, with the lowest and the highest round; ratios within a round. A figure is as aimed at, met or "
    "missed by its median, on the release that it was measured on. That no payload enters a kernel lane's "
    "process is shown by tests, not measured."
)


def section(files: Sequence[ResultFile]) -> Section:
    """Return the verdicts with how to read them."""
    return Section("What mtunnel is to reach", [_READING, verdicts(files)])


def verdicts(files: Sequence[ResultFile]) -> DataTable:
    """Return what ``files`` say of each goal; several of one benchmark have rows of their own."""
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
    return DataTable(HEADINGS, [row.cells() for row in (*rows, *budget.ELSEWHERE)])


def _release(file: ResultFile) -> str:
    return str(file.run.get("machine", {}).get("system", "")).replace(" GNU/Linux", "")


_BENCHMARKS: Mapping[str, Callable[[ResultFile | None], Iterator[Reached]]] = {
    "relay": budget.relay,
    "migrate": budget.migrate,
    "memory": budget.memory,
    "scale": budget.scale,
}

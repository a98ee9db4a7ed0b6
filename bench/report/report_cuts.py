"""What ``bench cuts`` found: how long a stream stalls when a lane is reset."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.measure.cuts import CutsOutcome
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.result_file import ResultFile

_HEADINGS = ("lanes", "round trip ms", "cuts", "uncut ms", "shortest ms", "median ms", "p95 ms", "longest ms")


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the results, one row for each case and round."""
    if found := file.build("cuts", CutsOutcome):
        reading = (
            "Stall of a steady stream after each lane reset, every byte verified. Uncut: without resets."
        )
        yield Section("Lanes that are reset", [reading, DataTable(_HEADINGS, list(map(_cells, found)))])


def _cells(found: CutsOutcome) -> list[str]:
    stalls = (found.uncut, *found.percentiles)
    return [
        str(found.lanes),
        f"{found.round_trip * 1000:g}",
        str(len(found.stalls)),
        *(f"{seconds * 1000:.1f}" for seconds in stalls),
    ]

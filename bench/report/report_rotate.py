"""What ``bench rotate`` found: gaps in streams while lanes are rotated."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.measure.rotate import LASTING, RotateOutcome
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.result_file import ResultFile
from tunnel.units import GIB

_HEADINGS = (
    *("lanes", "kinds", "records per key", "GiB each way", "MiB/s each way"),
    *("rotated", "resumed", "most records", "gap ms", "silence ms"),
)


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the results, one row for each case and round."""
    if found := file.build("rotation", RotateOutcome):
        reading = "Bulk in both directions, every byte compared, while lanes are rotated."
        yield Section("Lanes that are rotated", [reading, DataTable(_HEADINGS, list(map(_cells, found)))])


def _cells(found: RotateOutcome) -> list[str]:
    return [
        str(found.lanes),
        found.kinds,
        "no limit" if found.records == LASTING else str(found.records),
        f"{found.bytes / GIB:.1f}",
        f"{found.mib_per_s:.0f}",
        str(found.rotations),
        str(found.resumes),
        str(found.most_records),
        f"{found.gap * 1000:.0f}",
        f"{found.silence * 1000:.0f}",
    ]

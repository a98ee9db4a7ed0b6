"""What ``bench profile`` found: CPU time of both sides by kind of work."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.result_file import Fields, ResultFile


def sections(file: ResultFile) -> Iterator[Section]:
    """Return a table for each side, the largest share first."""
    profiles = file.of_kind("profile")
    if profiles:
        yield Section("CPU time by kind of work", list(map(_table, profiles)))


def _table(record: Fields) -> DataTable:
    total = record["cpu_seconds_per_gib"]
    rows = [
        [what, f"{milliseconds:.0f}", f"{milliseconds / total / 10:.1f} %"]
        for what, milliseconds in record["milliseconds"].items()
    ]
    rows.append(["all", f"{total * 1e3:.0f}", "100 %"])
    return DataTable([f"side {record['side'].upper()}", "ms/GiB", "share"], rows)

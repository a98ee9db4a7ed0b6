"""The section of the report on idle links."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_idle import sections
from tunnel.bench.report.result_file import ResultFile, read


def test_each_direction_that_was_measured_has_a_row_with_its_spread(tmp: Path) -> None:
    (section,) = sections(*read(samples.idle(tmp)))
    grid = section.blocks[-1]
    assert isinstance(grid, DataTable)
    (row,) = grid.rows
    assert row[:4] == ["1000 accepted", "1000", "0", "1.50 (1.33-2.50)"]
    figures = dict(zip(grid.headings, row, strict=True))
    assert figures["µs/s for each link"] == "15.00 (13.33-25.00)"
    assert figures["peak MiB"] == "200.00 (200.00-200.00)"
    assert str(figures["KiB for each link"]).startswith("92.16 ")


def test_a_run_without_measurements_is_reported(tmp: Path) -> None:
    (file,) = read(samples.idle(tmp))
    (section,) = sections(ResultFile(file.path, file.records[:1]))
    assert section.blocks == ["Nothing was measured."]

"""Workers in the report: medians of the rounds of each case."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_scale import sections
from tunnel.bench.report.result_file import ResultFile, read


def test_figures_are_per_gib_and_of_the_side_with_the_higher_one(tmp: Path) -> None:
    (file,) = read(samples.scale(tmp))
    (section,) = sections(file)
    table = section.blocks[-1]
    assert isinstance(table, DataTable)
    assert table.rows == [
        [
            *("4", "8", "2.00 (2.00-2.00)", "0.88 (0.75-1.00)", "0.15 (0.15-0.15)", "0.20 (0.20-0.20)"),
            *("5.00 (5.00-5.00)", "0.30 (0.30-0.30)"),
        ]
    ]
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

"""Reset lanes in the report: stalls in milliseconds."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_cuts import sections
from tunnel.bench.report.result_file import ResultFile, read


def test_stalls_are_in_milliseconds(tmp: Path) -> None:
    (file,) = read(samples.cuts(tmp))
    (section,) = sections(file)
    table = section.blocks[-1]
    assert isinstance(table, DataTable)
    assert table.rows == [["2", "20", "4", "1.2", "8.1", "28.9", "103.9", "78.9"]]
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

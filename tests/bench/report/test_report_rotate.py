"""Rotated lanes in the report: gaps in milliseconds."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_rotate import sections
from tunnel.bench.report.result_file import ResultFile, read


def test_gaps_are_in_milliseconds_and_a_missing_limit_is_named(tmp: Path) -> None:
    (file,) = read(samples.rotate(tmp))
    (section,) = sections(file)
    table = section.blocks[-1]
    assert isinstance(table, DataTable)
    first, second = table.rows
    assert first == ["2", "userspace-kernel", "1024", "3.0", "512", "190", "0", "1345", "83", "12"]
    assert second[2] == "no limit"
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

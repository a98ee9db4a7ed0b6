"""Profiles in the report: CPU time of each side by kind of work."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_profile import sections
from tunnel.bench.report.result_file import ResultFile, read


def test_each_side_has_its_kinds_and_their_sum(tmp: Path) -> None:
    (file,) = read(samples.profile(tmp))
    (section,) = sections(file)
    side_a, side_b = section.blocks
    assert isinstance(side_a, DataTable)
    assert isinstance(side_b, DataTable)
    assert side_a.rows == [
        ["kernel: send on the lane", "300", "75.0 %"],
        ["Python, its loop and libraries", "100", "25.0 %"],
        ["all", "400", "100 %"],
    ]
    assert side_b.headings[0] == "side B"
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

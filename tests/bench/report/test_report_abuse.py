"""Abuse in the report: ratios with their verdict, and memory with its bound."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable, Marked
from tunnel.bench.report.report_abuse import sections
from tunnel.bench.report.result_file import ResultFile, read


def test_attackers_and_stalled_streams_have_their_tables(tmp: Path) -> None:
    (file,) = read(samples.abuse(tmp))
    abuse, beside = (section.blocks[-1] for section in sections(file))
    assert isinstance(abuse, DataTable)
    assert isinstance(beside, DataTable)
    missed = Marked("0.50 (0.40-0.60)", "bad")
    assert abuse.rows == [["silent", missed, "0.90", "-", "900", "5%", "150 made", "0", "failed", "200"]]
    reached = Marked("1.00 (1.00-1.00)", "good")
    assert beside.rows == [["stalled", reached, "0.80", "512", "0 / 7", "100 / 107"]]
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

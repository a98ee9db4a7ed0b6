"""The parts of a report are values: two reports of the same files are equal."""

from __future__ import annotations

from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import Claim, DataTable, Document, Marked, Section


def _document() -> Document:
    chart = Chart("Speed", "GiB/s", [], "Longer is better.")
    table = DataTable(["x"], [[Marked("met", "good")]])
    return Document(
        "title", [Section("one", ["words", ("a", "list"), Claim("Speed", "won", "good"), table, chart])]
    )


def test_equal_parts_make_equal_documents() -> None:
    assert _document() == _document()
    assert _document() != Document("title", [])


def test_a_table_is_of_figures_by_default() -> None:
    assert not DataTable(["x"], []).words


def test_a_verdict_is_its_text() -> None:
    assert str(Marked("met", "good")) == "met"

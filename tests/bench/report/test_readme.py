"""The figures and the chart of README.md are those generated from the result files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tunnel.bench.measure.guest_records import MeasuredMigration
from tunnel.bench.report import readme
from tunnel.bench.report.mode_names import label
from tunnel.bench.report.result_file import read
from tunnel.errors import UsageError

PAGE = (readme.ROOT / "README.md").read_text()


def test_the_page_has_the_figures_of_the_files() -> None:
    assert readme.text() in PAGE


def test_the_chart_has_the_figures_of_the_files() -> None:
    assert (readme.ROOT / readme.CHART).read_text() == readme.svg()


def test_the_chart_is_a_picture_with_every_way_and_release() -> None:
    words = " ".join(ET.fromstring(readme.svg()).itertext())
    assert all(label(way) in words for way in readme.WAYS)
    assert "Debian 12" in words
    assert "Debian 13" in words


def test_every_row_is_a_median_of_its_file() -> None:
    """The first column of figures, computed independently of the module."""
    (file,) = (f for f in read(readme.RESULTS / readme.GOALS[0]) if f.run["benchmark"] == "migrate")
    for mode in readme.WAYS:
        rates = sorted(m.mib_per_s for m in file.build("migration", MeasuredMigration) if m.mode == mode)
        assert len(rates) % 2, "a median that is one of the rounds"
        (shown,) = re.findall(rf"^\| {re.escape(label(mode))} \| \**([\d.]+)\** \(", PAGE, re.MULTILINE)
        assert shown == f"{rates[len(rates) // 2]:.0f}"


def test_the_best_of_a_column_is_bold() -> None:
    rows = re.findall(
        r"^\| (?:mtunnel|QEMU's|libvirt)[^|]*\|(.*)\|$", PAGE.split("How fast")[1], re.MULTILINE
    )
    columns = list(zip(*([cell.strip() for cell in row.split("|")] for row in rows), strict=True))
    assert [sum(cell.startswith("**") for cell in column) for column in columns] == [1] * len(columns)


def test_writing_again_changes_only_the_figures(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text(PAGE.replace(readme.text(), "old figures\n"))
    assert readme.write(tmp_path) == [page, tmp_path / readme.CHART]
    assert page.read_text() == PAGE


def test_a_page_without_the_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# mtunnel\n")
    with pytest.raises(UsageError, match="figures"):
        readme.write(tmp_path)

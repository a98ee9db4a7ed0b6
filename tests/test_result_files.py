"""The result files in bench/data are those that documents quote, and no others."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUOTED = re.compile(r"\b\d{8}T\d{6}Z\b")


def test_every_result_file_is_quoted_and_every_quoted_one_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench/report/readme.py"]
    quoted = {time for page in pages for time in QUOTED.findall(page.read_text())}
    times = {found for file in (ROOT / "bench/data").iterdir() for found in QUOTED.findall(file.name)}
    assert len(times) > 20
    assert times == quoted

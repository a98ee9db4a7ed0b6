"""Every page is short, and shows only links, anchors and ways to migrate that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WAYS = (ROOT / "docs" / "libvirt.md").read_text().split("\n## Ways to migrate\n")[1].split("\n## ")[0]
SPEC = ROOT / "tunnel" / "wire" / "SPEC.md"
"""The specification of the protocol: read by section, so as long as the protocol needs."""
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), SPEC]
LONGEST = 300
NOT_YET = {"docs/architecture.md", "docs/benchmarks.md"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


SHORT = [page for page in PAGES if page != SPEC and name(page) not in NOT_YET]


@pytest.mark.parametrize("page", SHORT, ids=name)
def test_no_page_is_longer_than_a_reader_reads(page: Path) -> None:
    assert page.read_text().count("\n") <= LONGEST


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:\s]+)(?:#([^)]+))?\)", text)
    assert not [link for link, _ in links if not (page.parent / link).exists()]
    inside = [(page, anchor) for anchor in re.findall(r"\]\(#([^)]+)\)", text)]
    inside += [(page.parent / link, anchor) for link, anchor in links if anchor]
    assert not [(str(target), anchor) for target, anchor in inside if anchor not in anchors(target)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_has_marks_of_a_merge(page: Path) -> None:
    assert not re.search(r"^(<{7}|>{7}) ", page.read_text(), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that a web view of Markdown gives the headings of ``page``."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_way_to_migrate_is_shown_that_no_test_goes() -> None:
    shown = set(re.findall(r" (--[a-z][a-z0-9-]+)", WAYS))
    assert {"--p2p", "--postcopy", "--parallel"} <= shown
    tests = "".join(path.read_text() for path in (ROOT / "tests/e2e").rglob("test_*.py"))
    assert not [option for option in shown if f'"{option}' not in tests]

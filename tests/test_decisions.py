"""The files in docs/decisions have one form, name each other where one changes another, and are indexed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs/decisions"
INDEX = FOLDER / "README.md"
FILES = sorted(path for path in FOLDER.iterdir() if path != INDEX)

CHANGES = {"superseded by": "Supersedes", "amended by": "Amends", "outdated by": "Outdates"}
"""What the status of a changed decision says, and the line in the one that changed it."""

_LINK = r"\[\d{4}\]\(\d{4}-[a-z0-9-]+\.md\)"
_LINKS = rf"{_LINK}(?:, {_LINK})*"
_STATUS = rf"accepted|superseded by {_LINK}|amended by {_LINKS}|record(?:, outdated by {_LINK})?"
_DECISION = re.compile(
    r"# (?P<number>\d{4})\. (?P<title>\S[^\n]*)\n\n"
    rf"Status: (?P<status>{_STATUS})\n\n"
    r"Date: (?P<date>\d{4}-\d{2}-\d{2})\n\n"
    rf"(?P<changes>(?:(?:{'|'.join(CHANGES.values())}): {_LINKS}\n\n)*)"
    r"(?P<text>.*\S)\n",
    flags=re.DOTALL,
)
_ROW = re.compile(r"^\| (\[.*) \| (.*) \| (.*) \| (.*) \|$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one file says."""

    file: str
    number: str
    title: str
    status: str
    date: str
    changes: str
    text: str


def _read(path: Path) -> Decision:
    found = _DECISION.fullmatch(path.read_text())
    if found is None:
        pytest.fail(f"{path.name} does not have the form of a decision", pytrace=False)
    return Decision(path.name, **found.groupdict())


def _linked(text: str) -> list[str]:
    """The files that links to decisions lead to."""
    return re.findall(r"\[\d{4}\]\(([^)]*)\)", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_has_the_form(path: Path) -> None:
    decision = _read(path)
    assert decision.file.startswith(f"{decision.number}-")
    date.fromisoformat(decision.date)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_amended_one_says_first_what_was_changed(path: Path) -> None:
    decision = _read(path)
    assert decision.text.startswith("Amended: ") == decision.status.startswith("amended")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_has_the_sections_of_its_kind(path: Path) -> None:
    decision = _read(path)
    sections = re.findall(r"^## (.*)$", decision.text, flags=re.MULTILINE)
    needed = ["Context", "Figures"] if decision.status.startswith("record") else ["Context", "Decision"]
    assert sections == [
        name
        for name in ("Context", "Decision", "Figures", "Consequences")
        if name in needed or (name != "Decision" and name in sections)
    ]


def test_numbers_have_no_gaps_and_dates_ascend() -> None:
    decisions = [_read(path) for path in FILES]
    assert [decision.number for decision in decisions] == [f"{n:04}" for n in range(1, len(FILES) + 1)]
    assert all(before.date <= after.date for before, after in pairwise(decisions))


@pytest.mark.parametrize("path", [*FILES, INDEX], ids=lambda path: path.name)
def test_links_lead_to_the_decision_that_they_name(path: Path) -> None:
    links = re.findall(r"\[(\d{4})\]\(([^)]*)\)", path.read_text())
    assert not [file for number, file in links if not file.startswith(number) or not (FOLDER / file).exists()]


def _said_by_the_changed() -> Iterator[tuple[str, str, str]]:
    for decision in map(_read, FILES):
        for said, line in CHANGES.items():
            if said in decision.status:
                yield from ((line, file, decision.file) for file in _linked(decision.status))


def _said_by_the_changing() -> Iterator[tuple[str, str, str]]:
    for decision in map(_read, FILES):
        for line in decision.changes.split("\n\n"):
            yield from ((line.partition(":")[0], decision.file, file) for file in _linked(line))


def test_both_sides_of_a_change_say_so() -> None:
    changes = sorted(_said_by_the_changing())
    assert changes == sorted(_said_by_the_changed())
    assert all(newer > older for _, newer, older in changes)


def test_the_index_says_what_the_files_say() -> None:
    decisions = [_read(path) for path in FILES]
    assert _ROW.findall(INDEX.read_text()) == [
        (f"[{decision.number}]({decision.file})", decision.title, decision.status, decision.date)
        for decision in decisions
    ]

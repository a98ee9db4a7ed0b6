"""The blocks of a report: what was found, before it is rendered for a terminal, as HTML or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunnel.bench.report.charts import Chart

Tone = Literal["good", "bad", "unclear"]


@dataclass(frozen=True)
class Marked:
    """Text with a verdict for mtunnel; ``unclear`` also where there is none."""

    text: str
    tone: Tone

    def __str__(self) -> str:
        return self.text


Cell = str | Marked
RANGE = re.compile(r"(\([\d.]+-[\d.]+\))")
"""The lowest and the highest round behind a median, in the text of a cell."""


@dataclass(frozen=True)
class DataTable:
    """A table of text. The first column is text, the others are figures unless ``words`` is set."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: bool = False


@dataclass(frozen=True)
class Claim:
    """One sentence of the answer, its topic, and whether it is good for mtunnel."""

    topic: str
    text: str
    tone: Tone


Block = str | Claim | DataTable | Chart | tuple[str, ...]
"""A paragraph, a claim, a table, a chart, or a list of sentences."""


@dataclass(frozen=True)
class Section:
    """A heading, "" for none, and the blocks below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section]

"""The parts of a report, before it is rendered as HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunnel.bench.report.charts import Chart


@dataclass(frozen=True)
class DataTable:
    """A table of text. The first column is text, the others are figures unless ``words`` is set."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


Block = str | DataTable | Chart | tuple[str, ...]  # a paragraph, a table, a chart, or a list of sentences


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section]

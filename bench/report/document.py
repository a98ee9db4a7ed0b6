"""What a report consists of, before it is HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunnel.bench.report.charts import Chart


@dataclass(frozen=True)
class DataTable:
    """A table of text. The first column is words, the others are figures unless ``words``."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


Block = str | DataTable | Chart | tuple[str, ...]  # a paragraph, a table, a chart, or a list of sentences


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section]

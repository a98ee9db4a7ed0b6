"""The command lines of ``mtunnel``, ``./run`` and ``virsh`` that documents show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

_PROGRAM = r"(?:mtunnel|\./run|virsh) .*"
_LINE = re.compile(rf"(?:^|&& |=)(?:/[\w/]+/)?({_PROGRAM})")
_CODE = re.compile(rf"(?:[A-Z_]+=\w+ )?({_PROGRAM})")
_WAYS = 'after `virsh migrate --live web1 "$B"`'
"""The heading of a table whose cells complete this command."""


class WrongCommandError(Exception):
    """The command line would be refused."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One command line; ``whole`` unless it is a mention in running text, which may leave arguments out."""

    argv: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return shlex.join(self.argv)


def shown_in(text: str) -> Iterator[Shown]:
    """Yield the commands of a page in Markdown: of its code blocks, then those in running text."""
    prose = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            if found := _LINE.search(line if fenced else line[4:]):
                yield Shown(_split(found[1]), whole=True)
        else:
            prose.append(line)
    yield from _mentions("\n".join(prose))


def _mentions(prose: str) -> Iterator[Shown]:
    for code in re.findall(r"`([^`]+)`", prose):
        if found := _CODE.fullmatch(" ".join(code.split())):
            yield Shown(_split(found[1]), whole=False)
    for table in prose.split(_WAYS)[1:]:
        for row in table.split("\n\n")[0].splitlines():
            for code in re.findall(r"`(--[^`]+)`", row):
                yield Shown(("virsh", "migrate", "--live", "web1", "$B", *_split(code)), whole=True)


def _split(line: str) -> tuple[str, ...]:
    """Return the arguments of a line, without the explanation behind it and the brackets of optional ones.

    The explanation follows a # or at least three spaces.
    """
    command = re.split(r" #|\s{3,}", line)[0]
    if command.count("'") % 2:  # the end of sh -c '...'
        command = command.rstrip("'")
    return tuple(word for word in (word.strip("[]") for word in shlex.split(command)) if word != "…")

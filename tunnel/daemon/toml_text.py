"""The TOML parser: tables, or a one-line error message with the line number.

Errors are reworded for the operator; where no better text exists, that of the parser is used, in the terms of
the grammar (toml.io).
"""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_PLACE = re.compile(r"(?P<what>.*?) \(at (?:line (?P<line>\d+), column \d+|end of document)\)", re.DOTALL)
_HEADER = re.compile(r"\s*\[+\s*(?P<name>[^\[\]]*?)\s*\]+")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_SEVERAL = ("peer", "ingress")
_ONE = ("host", "tls", "transport")


def parse(content: bytes) -> dict[str, Any]:
    """Parse TOML, with or without a byte order mark. Raises ValueError with a message for the operator."""
    text = _decoded(content)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(_explained(text, str(error))) from None
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def misplaced(content: bytes, tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and message for each section with the wrong kind of brackets."""
    for name in (*_SEVERAL, *_ONE):
        several = name in _SEVERAL
        if isinstance(tables.get(name), dict if several else list):
            right, wrong = (f"[[{name}]]", f"[{name}]") if several else (f"[{name}]", f"[[{name}]]")
            why = "there can be several" if several else "there is only one"
            where = _line_of(_decoded(content), name)
            yield name, f"{where}{wrong} should be {right}: {why}"


def straightened(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables as with the right brackets, so that their contents are validated as well."""
    found = dict(tables)
    found |= {name: [found[name]] for name in _SEVERAL if isinstance(found.get(name), dict)}
    return found | {
        name: found[name][0] for name in _ONE if isinstance(found.get(name), list) and found[name]
    }


def _decoded(content: bytes) -> str:
    if content.startswith(_UTF16) or b"\0" in content[:4]:
        raise ValueError("the encoding is UTF-16: save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte {content[error.start]:#x} is not UTF-8: save the file as UTF-8"
        ) from None


def _explained(text: str, message: str) -> str:
    found = _PLACE.fullmatch(message)
    if found is None:
        return message
    if found["line"] is None:
        return "unexpected end of file: a string or a bracket is not closed"
    number = int(found["line"])
    line = text.splitlines()[number - 1] if number <= len(text.splitlines()) else ""
    return f"line {number}: {_reason(found['what'], line)}"


def _reason(what: str, line: str) -> str:
    header = _HEADER.match(line)
    key, equals, value = (part.strip() for part in line.partition("="))
    if header and (what.startswith("Cannot declare") or what == "Cannot overwrite a value"):
        name = header["name"]
        if name in _SEVERAL:
            return f"{line.strip()} conflicts with an earlier one: write [[{name}]] for each"
        return f"duplicate section [{name}]: write all its keys in one section"
    match what:
        case "Cannot overwrite a value":
            return f"duplicate key {key}"
        case "Invalid value" if equals and not value:
            return f"{key} has no value"
        case "Invalid value" if equals:
            return f'{value} is not a valid value: strings need quotes, as in {key} = "text"'
        case "Illegal character '\\n'":
            return "a string is not closed"
        case "Expected newline or end of document after a statement":
            return "unexpected text after the value: write each key on a separate line"
    return f"{what[:1].lower()}{what[1:]}"


def _line_of(text: str, name: str) -> str:
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header and header["name"] == name:
            return f"line {number}: "
    return ""

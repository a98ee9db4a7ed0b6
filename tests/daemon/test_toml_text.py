"""Errors in a TOML file are reported with their line, without the terms of the grammar."""

from __future__ import annotations

import codecs
from typing import Any

import pytest

from tunnel.daemon.toml_text import misplaced, parse, straightened


def complaint(content: bytes) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse(content)
    return str(caught.value)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_tables_are_returned(mark: bytes) -> None:
    assert parse(mark + b'[host]\nname = "h\xc3\xb6st"\n') == {"host": {"name": "höst"}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('[host]\nname = "a"\nname = "b"\n', "line 3: duplicate key name"),
        (
            '[host]\nname="a"\n[tls]\n[host]\nx=1\n',
            "line 4: duplicate section [host]: write all its keys in one section",
        ),
        (
            '[peer]\nname = "a"\n\n[peer]\nname = "b"\n',
            "line 4: [peer] conflicts with an earlier one: write [[peer]] for each",
        ),
        (
            '[peer]\nname = "a"\n[[peer]]\n',
            "line 3: [[peer]] conflicts with an earlier one: write [[peer]] for each",
        ),
        (
            "[host]\nname = hosta\n",
            'line 2: hosta is not a valid value: strings need quotes, as in name = "text"',
        ),
        ("[host]\nname =\n", "line 2: name has no value"),
        ('[host]\nname = "hosta\nlisten = "x"\n', "line 2: a string is not closed"),
        ("a = 1 b = 2\n", "line 1: unexpected text after the value: write each key on a separate line"),
        ("[host\n", "line 1: expected ']' at the end of a table declaration"),
        ("[host", "unexpected end of file: a string or a bracket is not closed"),
        ("egress = [\n", "unexpected end of file: a string or a bracket is not closed"),
    ],
)
def test_error_is_reported_with_its_line(content: str, text: str) -> None:
    assert complaint(content.encode()) == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding: str) -> None:
    message = "the encoding is UTF-16: save the file as UTF-8"
    assert complaint('[host]\nname = "a"\n'.encode(encoding)) == message


def test_other_bytes_are_reported_with_their_line() -> None:
    assert complaint(b"[host]\n# caf\xe9\n") == "line 2: byte 0xe9 is not UTF-8: save the file as UTF-8"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            b"# [peer]\n\n [peer] # x\nname=1\n",
            ("peer", "line 3: [peer] should be [[peer]]: there can be several"),
        ),
        (b"[ingress]\n", ("ingress", "line 1: [ingress] should be [[ingress]]: there can be several")),
        (b"\n[[host]]\n", ("host", "line 2: [[host]] should be [host]: there is only one")),
        (b"peer = {name = 1}\n", ("peer", "[peer] should be [[peer]]: there can be several")),
    ],
)
def test_wrong_brackets_are_reported_and_their_content_is_still_validated(
    content: bytes, problem: tuple[str, str]
) -> None:
    tables = parse(content)
    assert list(misplaced(content, tables)) == [problem]
    right = straightened(tables)
    assert list(misplaced(content, right)) == []


@pytest.mark.parametrize("tables", [{}, {"peer": [], "host": {}}, {"peer": 5, "host": "x", "other": {}}])
def test_right_brackets_and_values_that_are_no_tables_are_left_alone(tables: dict[str, Any]) -> None:
    assert list(misplaced(b"", tables)) == []
    assert straightened(tables) == tables

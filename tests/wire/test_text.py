"""Untrusted text: shown without what controls terminals, and of bounded length."""

from __future__ import annotations

import pytest

from tunnel.wire.text import printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [("web1, Grüße", "web1, Grüße"), ("a\nb\x1b[31mc\u202e", "a\ufffdb\ufffd[31mc\ufffd"), ("", "")],
)
def test_unprintable_characters_are_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("text", "shown"), [("abcd", "abcd"), ("abcde", "abc…"), ("a\x07cde", "a\ufffdc…")])
def test_long_text_is_cut(text: str, shown: str) -> None:
    assert quoted(text, 4) == shown

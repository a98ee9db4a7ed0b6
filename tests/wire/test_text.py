"""Text that somebody else wrote: shown without what drives terminals, and not without end."""

from __future__ import annotations

import pytest

from tunnel.wire.text import printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [("web1, Grüße", "web1, Grüße"), ("a\nb\x1b[31mc\u202e", "a\ufffdb\ufffd[31mc\ufffd"), ("", "")],
)
def test_what_cannot_be_printed_is_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("text", "shown"), [("abcd", "abcd"), ("abcde", "abc…"), ("a\x07cde", "a\ufffdc…")])
def test_what_is_too_long_is_cut_off(text: str, shown: str) -> None:
    assert quoted(text, 4) == shown

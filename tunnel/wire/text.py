"""Text that somebody else wrote, for people: nothing in it may drive a terminal, and none may be endless."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with what cannot be printed replaced: control characters, line breaks, marks of direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def quoted(text: str, most: int) -> str:
    """``text`` printable, and of at most ``most`` characters."""
    return printable(text if len(text) <= most else f"{text[: most - 1]}…")

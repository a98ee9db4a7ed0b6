"""Untrusted text, made safe for logs and terminals: without control characters, and of bounded length."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with unprintable characters replaced: control characters, line breaks, bidi marks."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def quoted(text: str, most: int) -> str:
    """Return ``text``, printable, cut to at most ``most`` characters."""
    return printable(text if len(text) <= most else f"{text[: most - 1]}…")

"""Fixtures of the daemon tests."""

from __future__ import annotations

from tests.support.namespace import network

__all__ = ["network"]

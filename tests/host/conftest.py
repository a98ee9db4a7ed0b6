"""Fixtures of the tests of what the host offers."""

from __future__ import annotations

from tests.support.namespace import network

__all__ = ["network"]

"""Fixtures of the tests of records."""

from __future__ import annotations

from tests.support.lanes import hosts

__all__ = ["hosts"]

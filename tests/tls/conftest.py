"""Fixtures of the tests of TLS."""

from __future__ import annotations

from tests.support.lanes import hosts

__all__ = ["hosts"]

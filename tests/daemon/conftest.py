"""What the tests of the daemon share."""

from __future__ import annotations

from tests.support.namespace import network

__all__ = ["network"]

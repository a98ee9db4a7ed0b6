"""Fixtures of the tests of sockets."""

from __future__ import annotations

from tests.support.lanes import quiet_loop
from tests.support.namespace import link_local, network

__all__ = ["link_local", "network", "quiet_loop"]

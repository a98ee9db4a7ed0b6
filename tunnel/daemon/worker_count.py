"""How many workers a daemon has: docs/decisions/0061-workers.md."""

from __future__ import annotations

import os

from tunnel.daemon.config import Transport

MOST_BY_ITSELF = 8
"""Workers that ``auto`` has at most: one interpreter hardly keeps more busy."""

FEW = 2
"""Processors on which one worker is best: QEMU and the network have the other one."""


def count_workers(transport: Transport, *, compiled: bool) -> int:
    """As many as are configured, or as fit this host, with or without the ``compiled`` engine."""
    if transport.workers is not None:
        return transport.workers
    processors = len(os.sched_getaffinity(0))
    return min(processors, MOST_BY_ITSELF) if compiled and processors > FEW else 1

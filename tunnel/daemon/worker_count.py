"""The number of workers of a daemon: docs/decisions/0061-workers.md."""

from __future__ import annotations

import os

from tunnel.daemon.config import Transport

MOST_BY_ITSELF = 8
"""Limit of workers with ``auto``: one interpreter hardly scales to more."""

FEW = 2
"""Up to this number of processors one worker is best: QEMU and the network use the other one."""


def count_workers(transport: Transport, *, compiled: bool) -> int:
    """Return the configured number, or that for this host with or without the ``compiled`` engine."""
    if transport.workers is not None:
        return transport.workers
    processors = len(os.sched_getaffinity(0))
    return min(processors, MOST_BY_ITSELF) if compiled and processors > FEW else 1

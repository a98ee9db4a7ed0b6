"""Memory tuning for a running loop: malloc's thresholds, and the garbage collector."""

from __future__ import annotations

import ctypes
import gc

from tunnel.units import MIB

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


def tune_malloc() -> bool:
    """Make malloc serve batches from a heap that it keeps; return whether that was set (glibc only).

    Data from a hypervisor is read into one ``bytes`` per frame, kept until it is delivered. With the
    defaults each costs a ``brk``, and the page faults of the next one: up to a quarter of a relay's time.
    See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 32 * MIB), (_M_TRIM_THRESHOLD, 64 * MIB), (_M_TOP_PAD, 4 * MIB))
    results = {mallopt(option, value) for option, value in settings}
    return results == {1}


def tune_collector() -> None:
    """Exclude all existing objects from garbage collection: they last as long as the process.

    A full collection visits every object that can be part of a cycle, and stalls all streams: 35 ms for the
    55,000 of a daemon that has just started, on a core of an older Xeon. See gc.freeze.
    """
    gc.collect()
    gc.freeze()

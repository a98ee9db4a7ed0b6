"""Keep freed memory: glibc's defaults give every large ``bytes`` back and fault it in again."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_MIB = 1 << 20


def keep_heap() -> bool:
    """Tell malloc to serve batches from a heap that it keeps; whether it could be told (glibc only).

    What a hypervisor sends is read into one ``bytes`` per frame, kept until it is delivered. With the
    defaults each costs a ``brk``, and the page faults of the next one: up to a quarter of a relay's time.
    See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 32 * _MIB), (_M_TRIM_THRESHOLD, 64 * _MIB), (_M_TOP_PAD, 4 * _MIB))
    results = {mallopt(option, value) for option, value in settings}
    return results == {1}

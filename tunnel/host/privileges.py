"""Capabilities of this process (capabilities(7)), and whether it leaves a core behind (core(5))."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Collection
from enum import IntEnum
from pathlib import Path

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_SETPCAP = 8

_PROCESS_STATUS = Path("/proc/self/status")
_libc = ctypes.CDLL(None, use_errno=True)


class Capability(IntEnum):
    """Those that a daemon may need, by their numbers in linux/capability.h."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    SYS_RESOURCE = 24

    def __str__(self) -> str:
        return f"CAP_{self.name}"


def forbid_core_dumps() -> None:
    """Leave no core behind, nor let processes of the same user look in: there are keys in this memory.

    See prctl(2), PR_SET_DUMPABLE; the limit alone does not concern programs that take cores from a pipe.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise _error()


def has(capability: Capability) -> bool:
    """Whether ``capability`` is effective. True where that cannot be read: the system call will tell."""
    mask = _mask("CapEff")
    return mask is None or bool(mask >> capability & 1)


def permitted() -> int:
    """Return the mask of the capabilities that this process may use; 0 where that cannot be read."""
    return _mask("CapPrm") or 0


def _mask(name: str) -> int | None:
    try:
        lines = _PROCESS_STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1], 16) for line in lines if line.startswith(f"{name}:")), None)


def keep_only(wanted: Collection[Capability]) -> list[Capability]:
    """Give up every capability but these, for good, and for programs that are started, too.

    Concerns the calling thread: call it before there are others. Returns those that are left. Raises
    OSError when the kernel refuses.
    """
    had = permitted()
    mask = sum(1 << each for each in wanted) & had
    if had >> _SETPCAP & 1:
        _bound(mask)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = ctypes.c_char_p(struct.pack("=Ii", _VERSION_3, 0))
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.c_char_p(struct.pack("=6I", low, low, low, high, high, high))
    if _libc.capset(header, data):
        raise _error()
    return [each for each in Capability if mask >> each & 1]


def _bound(mask: int) -> None:
    """Take everything else out of the bounding set: what root's programs get."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if not mask >> number & 1 and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            raise _error()
        number += 1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

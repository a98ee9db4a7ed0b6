"""Capabilities (capabilities(7)) and core dumps (core(5)) of this process."""

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
    """Capabilities that a daemon may need, with their numbers in linux/capability.h."""

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
    """Disable core dumps, and access by processes of the same user: there are keys in this memory.

    See prctl(2), PR_SET_DUMPABLE; the limit alone does not apply where cores are piped to a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise _error()


def has(capability: Capability) -> bool:
    """Return whether ``capability`` is effective. True when that cannot be read: the system call decides."""
    mask = _mask("CapEff")
    return mask is None or bool(mask >> capability & 1)


def permitted() -> int:
    """Return the mask of permitted capabilities; 0 when it cannot be read."""
    return _mask("CapPrm") or 0


def _mask(name: str) -> int | None:
    try:
        lines = _PROCESS_STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1], 16) for line in lines if line.startswith(f"{name}:")), None)


def keep_only(wanted: Collection[Capability]) -> list[Capability]:
    """Drop every capability but these, irrevocably, also for programs started later.

    Applies to the calling thread: call it before there are others. Returns those that are left. Raises
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
    """Drop everything else from the bounding set, which limits what root's programs get."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if not mask >> number & 1 and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            raise _error()
        number += 1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

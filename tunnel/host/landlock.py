"""Landlock: restrict this process's access to files, irrevocably (landlock(7), linux/landlock.h).

Open files stay open. Only the calling thread, and threads and programs that it starts later, are restricted,
so call ``restrict`` before there are threads. Landlock does not cover connecting to unix sockets.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class Access(IntFlag):
    """LANDLOCK_ACCESS_FS_*, up to version 3 of the ABI."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14


READ = Access.READ_FILE | Access.READ_DIR
RUN = READ | Access.EXECUTE
_MAKE = Access.MAKE_SOCK | Access.MAKE_REG | Access.MAKE_DIR
_REPLACE = Access.WRITE_FILE | Access.TRUNCATE | Access.REMOVE_FILE | Access.REMOVE_DIR | Access.REFER
SOCKETS = READ | _MAKE | _REPLACE
"""Sockets, lock files and directories for them may be created, renamed and removed."""

_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE
_SINCE = {1: (1 << 13) - 1, 2: Access.REFER, 3: Access.TRUNCATE}
"""Versions of the ABI, and the rights that each added."""


def version() -> int:
    """Return the kernel's Landlock ABI version; 0 when it is missing or disabled."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def restrict(allowed: Mapping[Path, Access]) -> int:
    """Restrict access to these rights below these paths; paths that do not exist are skipped.

    Returns the ABI version, 0 when nothing was restricted because the kernel lacks Landlock. Raises OSError
    when the kernel has it and refuses.
    """
    found = version()
    if not found:
        return 0
    handled = sum(bits for since, bits in _SINCE.items() if since <= found)
    ruleset = _call(_CREATE_RULESET, ctypes.c_char_p(struct.pack("=Q", handled)), ctypes.c_size_t(8), 0)
    try:
        for path, access in allowed.items():
            _allow(ruleset, path, access & handled)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise _error()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return found


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES}:
            return
        raise
    try:
        if not path.is_dir():
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, opened)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(opened)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

"""Which guest a unix socket is for, by its file name: ``web1.sock``, and ``web1-disks.sock`` for its disks.

A socket is chosen for a guest by its whole name, never by prefix or substring: ``web-db.sock`` is not for a
guest ``web``, and ``nbdkit.sock`` not for disks. Paths are absolute, as in ``UnixAddress``.
"""

from __future__ import annotations

import posixpath

_SUFFIXES = (".sock", ".socket")
_DISKS = ("disks", "disk", "nbd")
_SEPARATORS = ("-", "_", ".")
_MONITOR = ".qmp"


def stem(path: str) -> str:
    """The file name without ``.sock`` or ``.socket``."""
    name = posixpath.basename(path)
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def carries_memory_of(path: str, guest: str) -> bool:
    """Whether it is named after ``guest`` and nothing else."""
    return stem(path) == guest


def carries_disks_of(path: str, guest: str) -> bool:
    """Whether it is named after ``guest`` and its disks: ``web1-disks.sock``, ``web1_nbd``, ``web1.disk``."""
    return stem(path) in {f"{guest}{separator}{word}" for separator in _SEPARATORS for word in _DISKS}


def may_be_anothers(path: str, guest: str) -> bool:
    """Whether another guest's name, which begins as ``guest`` or is its beginning, may be meant."""
    found = stem(path)
    return found != guest and (found.startswith(guest) or guest.startswith(found))


def is_for_any_disks(path: str) -> bool:
    """Whether it is named after disks alone: ``nbd.sock``."""
    return stem(path) in _DISKS


def is_for_disks(path: str) -> bool:
    """Whether it is named after disks, alone or of some guest."""
    found = stem(path)
    endings = tuple(f"{separator}{word}" for separator in _SEPARATORS for word in _DISKS)
    return found in _DISKS or found.endswith(endings)


def is_monitor(path: str) -> bool:
    """Whether it is named as a QMP socket: ``web1.qmp``."""
    return posixpath.basename(path).endswith(_MONITOR)

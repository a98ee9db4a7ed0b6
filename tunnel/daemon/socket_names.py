"""Guests by the file names of unix sockets: ``web1.sock``, and ``web1-disks.sock`` for its disks.

A socket is chosen for a guest by its whole name, never by prefix or substring: ``web-db.sock`` is not for a
guest ``web``, and ``nbdkit.sock`` is not for disks. Paths are absolute, as in ``UnixAddress``.
"""

from __future__ import annotations

import posixpath

_SUFFIXES = (".sock", ".socket")
_DISKS = ("disks", "disk", "nbd")
_SEPARATORS = ("-", "_", ".")
_MONITOR = ".qmp"


def stem(path: str) -> str:
    """Return the file name without ``.sock`` or ``.socket``."""
    name = posixpath.basename(path)
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def carries_memory_of(path: str, guest: str) -> bool:
    """Whether the socket is named after ``guest`` alone."""
    return stem(path) == guest


def carries_disks_of(path: str, guest: str) -> bool:
    """Whether the socket is named after the disks of ``guest``: ``web1-disks.sock``, ``web1_nbd``."""
    return stem(path) in {f"{guest}{separator}{word}" for separator in _SEPARATORS for word in _DISKS}


def may_be_anothers(path: str, guest: str) -> bool:
    """Whether the name may be that of another guest: one is a proper prefix of the other."""
    found = stem(path)
    return found != guest and (found.startswith(guest) or guest.startswith(found))


def is_for_any_disks(path: str) -> bool:
    """Whether the socket is named after disks alone: ``nbd.sock``."""
    return stem(path) in _DISKS


def is_for_disks(path: str) -> bool:
    """Whether the socket is named after disks, alone or of a guest."""
    found = stem(path)
    endings = tuple(f"{separator}{word}" for separator in _SEPARATORS for word in _DISKS)
    return found in _DISKS or found.endswith(endings)


def is_monitor(path: str) -> bool:
    """Whether the socket is named as a QMP socket: ``web1.qmp``."""
    return posixpath.basename(path).endswith(_MONITOR)

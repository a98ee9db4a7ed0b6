"""Users who could change or replace a file: as sshd's StrictModes, along the whole path.

A certificate, a configuration or a socket is as safe as the least safe directory on its path. Each component
must be owned by root or by this process's user, and not be writable by others, neither by its mode nor by an
ACL (acl(5)). Users whom the caller trusts may own directories, but no symbolic link, whose owner chooses its
target. A directory with the sticky bit may be on the path, since only the owner of a file in it can remove
that; but nothing of ours is created in one. A symbolic link is followed, and checked.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from tunnel.host.users import user_name

_MOST_LINKS = 40  # as in the kernel

# linux/posix_acl_xattr.h, linux/posix_acl.h
_ACCESS_LIST = "system.posix_acl_access"
_ENTRY = struct.Struct("<HHI")  # tag, permissions, uid or gid
_USER, _GROUP_OWNER, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_WRITE = 2


def weakness(path: Path) -> str | None:
    """Return which other users could change the file at ``path``, and the fix; None when none could.

    What does not exist, or cannot be examined, is not checked.
    """
    return _weakness(path, (), holds=False)


def weakness_of_directory(path: Path, trusted: Collection[int] = ()) -> str | None:
    """Return the same for a directory in which to create a file, or for its last existing parent."""
    return _weakness(path, trusted, holds=True)


def open_to_everybody(directory: Path) -> str | None:
    """Return where any user could put a file into ``directory``, or replace it; None if none can.

    Its owner, and others who can write to it, are not checked.
    """
    way = list(_way(directory.absolute()))
    for index, (reached, status) in enumerate(way):
        passing = index < len(way) - 1 and _is_sticky(status)
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & stat.S_IWOTH and not passing:
            return _open(_named(reached, status), status)
    return None


def _weakness(path: Path, trusted: Collection[int], *, holds: bool) -> str | None:
    way = list(_way(path.absolute()))
    for index, (reached, status) in enumerate(way):
        last = index == len(way) - 1
        owners = {0, os.geteuid(), *(() if stat.S_ISLNK(status.st_mode) else trusted)}
        if found := _judge(reached, status, owners, passing=not (holds and last)):
            return found
    return None


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each directory and link on the way to ``path``, and at last itself, as far as they exist."""
    reached, links = Path("/"), 0
    pending = [*reversed(path.parts)]
    while pending and links <= _MOST_LINKS:
        name = pending.pop()
        entry = reached.parent if name == ".." else reached / name  # a name may be "/": then it is the root
        try:
            status = entry.lstat()
        except OSError:
            return
        yield entry, status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            pending += reversed(entry.readlink().parts)
        else:
            reached = entry


def _judge(path: Path, status: os.stat_result, owners: Collection[int], *, passing: bool) -> str | None:
    what = _named(path, status)
    if status.st_uid not in owners:
        return f"{what} is owned by {user_name(status.st_uid)}: chown it to root, or use another path"
    if stat.S_ISLNK(status.st_mode) or (passing and _is_sticky(status)):
        return None
    if status.st_mode & stat.S_IWOTH:
        return _open(what, status)
    listed = list(_access_list(path))
    for tag, uid in listed:
        if tag == _USER and uid not in owners:
            return f"the user {user_name(uid)} can write to {what} by its ACL: run setfacl -b on it"
    groups = [gid for tag, gid in listed if tag == _GROUP]
    # With an ACL the mode shows its mask, not the rights of the owning group.
    if (not listed and status.st_mode & stat.S_IWGRP) or any(tag == _GROUP_OWNER for tag, _ in listed):
        groups.append(status.st_gid)
    for gid in groups:
        if not _is_private(status.st_uid, gid):
            return f"the group {_group_name(gid)} can write to {what} ({_mode(status)}): run chmod g-w on it"
    return None


def _named(path: Path, status: os.stat_result) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    return f"the {kinds.get(stat.S_IFMT(status.st_mode), 'file')} {path}"


def _mode(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):04o}"


def _open(what: str, status: os.stat_result) -> str:
    return f"every user can write to {what} ({_mode(status)}): run chmod go-w on it, or use another path"


def _access_list(path: Path) -> Iterator[tuple[int, int]]:
    """Yield tag and uid or gid of each ACL entry that grants write access; see acl(5)."""
    with suppress(OSError):  # no ACL, or no support by the file system
        raw = os.getxattr(path, _ACCESS_LIST, follow_symlinks=False)
        entries = list(_ENTRY.iter_unpack(raw[4:]))  # after the version
        mask = next((rights for tag, rights, _ in entries if tag == _MASK), _WRITE)
        for tag, rights, identity in entries:
            if rights & mask & _WRITE:
                yield tag, identity


def _is_sticky(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)


def _is_private(uid: int, gid: int) -> bool:
    """Return whether a group is the private group of one user, as many systems have (umask 0002)."""
    with suppress(KeyError):
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
        alone = set(group.gr_mem) <= {user.pw_name}
        return uid != 0 and user.pw_gid == gid and group.gr_name == user.pw_name and alone
    return False


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

"""Who could change a file, or put another in its place: as sshd's StrictModes, along the whole path.

A certificate, a configuration or a socket is as safe as the least safe directory on its way. Each component
must belong to root or to this process's user, and others must not be able to write to it, be it by its mode
or by an access list (acl(5)). Whoever a caller trusts may own directories, but no symbolic link: that leads
where its owner likes. A directory
with the sticky bit may be on the way, since only the owner of what is in it can remove that; but nothing of
ours is made in one. A symbolic link is followed, and judged.
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

_MOST_LINKS = 40  # as the kernel

# linux/posix_acl_xattr.h, linux/posix_acl.h
_ACCESS_LIST = "system.posix_acl_access"
_ENTRY = struct.Struct("<HHI")  # tag, permissions, uid or gid
_USER, _GROUP_OWNER, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_WRITE = 2


def weakness(path: Path) -> str | None:
    """Who else could change the file at ``path``, and what to do about it. None: nobody.

    Of what does not exist, or cannot be looked at, nothing is said.
    """
    return _weakness(path, (), holds=False)


def weakness_of_directory(path: Path, trusted: Collection[int] = ()) -> str | None:
    """The same for a directory in which something is to be made, or for the last one on the way to it."""
    return _weakness(path, trusted, holds=True)


def open_to_everybody(directory: Path) -> str | None:
    """Say where any user could put a file into ``directory``, or exchange it; None if none can.

    Who owns it, and who else may write to it, is not asked.
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
    """Each directory and link on the way to ``path``, and at its end itself, as far as they exist."""
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
        return f"{what} belongs to {user_name(status.st_uid)}: chown root it, or take another place"
    if stat.S_ISLNK(status.st_mode) or (passing and _is_sticky(status)):
        return None
    if status.st_mode & stat.S_IWOTH:
        return _open(what, status)
    listed = list(_access_list(path))
    for tag, uid in listed:
        if tag == _USER and uid not in owners:
            return f"the user {user_name(uid)} can write to {what} by its access list: setfacl -b it"
    groups = [gid for tag, gid in listed if tag == _GROUP]
    # With an access list the mode has its mask, and no right of the group that owns it.
    if (not listed and status.st_mode & stat.S_IWGRP) or any(tag == _GROUP_OWNER for tag, _ in listed):
        groups.append(status.st_gid)
    for gid in groups:
        if not _is_private(status.st_uid, gid):
            return f"the group {_group_name(gid)} can write to {what} ({_mode(status)}): chmod g-w it"
    return None


def _named(path: Path, status: os.stat_result) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    return f"the {kinds.get(stat.S_IFMT(status.st_mode), 'file')} {path}"


def _mode(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):04o}"


def _open(what: str, status: os.stat_result) -> str:
    return f"every user can write to {what} ({_mode(status)}): chmod go-w it, or take another place"


def _access_list(path: Path) -> Iterator[tuple[int, int]]:
    """Tag and uid or gid of each entry of an access list by which somebody can write; see acl(5)."""
    with suppress(OSError):  # there is none, or the file system knows none
        raw = os.getxattr(path, _ACCESS_LIST, follow_symlinks=False)
        entries = list(_ENTRY.iter_unpack(raw[4:]))  # behind the version
        mask = next((rights for tag, rights, _ in entries if tag == _MASK), _WRITE)
        for tag, rights, identity in entries:
            if rights & mask & _WRITE:
                yield tag, identity


def _is_sticky(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)


def _is_private(uid: int, gid: int) -> bool:
    """Whether a group is that of one user alone, as many systems make one for each (umask 0002)."""
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

"""Who could change a file, or put another in its place: as sshd's StrictModes, along the whole path.

A certificate, a configuration or a socket is as safe as the least safe directory on its way. Each component
must belong to root, to this process's user, or to somebody whom the caller trusts with it, and others must
not be able to write to it. A directory with the sticky bit may be on the way, since only the owner of
what is in it can remove that; but nothing of ours is made in one. A symbolic link is followed, and judged.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from tunnel.transport.users import user_name

_MOST_LINKS = 40  # as the kernel


def weakness(path: Path, trusted: Collection[int] = ()) -> str | None:
    """Who else could change the file at ``path``, and what to do about it. None: nobody.

    Of what does not exist, or cannot be looked at, nothing is said.
    """
    return _weakness(path, trusted, holds=False)


def weakness_of_directory(path: Path, trusted: Collection[int] = ()) -> str | None:
    """The same for a directory in which something is to be made, or for the last one on the way to it."""
    return _weakness(path, trusted, holds=True)


def _weakness(path: Path, trusted: Collection[int], *, holds: bool) -> str | None:
    owners = {0, os.geteuid(), *trusted}
    way = list(_way(path.absolute()))
    for index, (reached, status) in enumerate(way):
        if found := _judge(reached, status, owners, passing=not holds or index < len(way) - 1):
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
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"}
    what = f"the {kinds.get(stat.S_IFMT(status.st_mode), 'file')} {path}"
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_uid not in owners:
        return f"{what} belongs to {user_name(status.st_uid)}: chown root it, or take another place"
    if stat.S_ISLNK(status.st_mode) or (passing and _is_sticky(status)):
        return None
    if status.st_mode & stat.S_IWOTH:
        return f"every user can write to {what} ({mode}): chmod go-w it, or take another place"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_uid, status.st_gid):
        return f"the group {_group_name(status.st_gid)} can write to {what} ({mode}): chmod g-w it"
    return None


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

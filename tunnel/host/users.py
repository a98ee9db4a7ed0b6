"""Names of local users, for messages: known beforehand, never looked up when they are needed.

The system's look-up (NSS) may ask a directory on the network and take as long as that does. So it is used
when a configuration is read; and of the accounts in /etc/passwd all names are known.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PASSWD = Path("/etc/passwd")

_looked_up: dict[int, str] = {}


def uid_of(name: str) -> int:
    """Look up the uid of ``name``, which takes as long as NSS does. Raises KeyError when there is none."""
    uid = pwd.getpwnam(name).pw_uid
    _looked_up[uid] = name
    return uid


def user_name(uid: int) -> str:
    """Return the name of ``uid`` for a message, at once; its number where none is known."""
    return _looked_up.get(uid) or local_names().get(uid) or str(uid)


@cache
def local_names() -> Mapping[int, str]:
    """Return the names in /etc/passwd by uid, the first of each (passwd(5)).

    It is read at the first call: make that one before streams run, and before files are out of reach.
    """
    try:
        lines = PASSWD.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    names: dict[int, str] = {}
    for fields in (line.split(":") for line in lines):
        if len(fields) == 7 and fields[2].isascii() and fields[2].isdecimal():
            names.setdefault(int(fields[2]), fields[0])
    return names

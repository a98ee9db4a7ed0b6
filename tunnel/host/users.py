"""Names of local users for messages, resolved in advance.

A lookup through NSS may query a directory server, and block for as long as that takes. So it is used only
when a configuration is read; the names in /etc/passwd are read from there.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PASSWD = Path("/etc/passwd")

_looked_up: dict[int, str] = {}


def uid_of(name: str) -> int:
    """Look up the uid of ``name`` through NSS, which may block. Raises KeyError when there is none."""
    uid = pwd.getpwnam(name).pw_uid
    _looked_up[uid] = name
    return uid


def user_name(uid: int) -> str:
    """Return the name of ``uid`` for a message, without a lookup; its number when no name is cached."""
    return _looked_up.get(uid) or local_names().get(uid) or str(uid)


@cache
def local_names() -> Mapping[int, str]:
    """Return the names in /etc/passwd by uid, the first of each (passwd(5)).

    Read at the first call: make that before streams run, and before access to files is restricted.
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

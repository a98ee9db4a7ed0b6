"""The programs of others: where they are, and which version."""

from __future__ import annotations

import re
import shutil
import subprocess

from tunnel.errors import UsageError

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"  # where an unprivileged PATH does not look


def find(program: str) -> str | None:
    """Return the path of ``program``, or None when it is not installed."""
    return shutil.which(program) or shutil.which(program, path=_SYSTEM_DIRECTORIES)


def path_of(program: str) -> str:
    """Return the path of ``program``; raises UsageError when it is not installed."""
    path = find(program)
    if path is None:
        raise UsageError(f"{program} is not installed")
    return path


def version_said(program: str, option: str) -> str:
    """Return the first line with a version number in it that ``program option`` prints."""
    done = subprocess.run([path_of(program), option], capture_output=True, text=True, timeout=10, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if re.search(r"\d\.\d", line)), "unknown")

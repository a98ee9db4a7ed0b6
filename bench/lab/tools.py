"""Third-party programs: their paths and versions."""

from __future__ import annotations

import re
import shutil
import subprocess

from tunnel.errors import UsageError

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"  # not in the PATH of unprivileged users


def find(program: str) -> str | None:
    """Return the path of ``program``, or None when it is not installed."""
    return shutil.which(program) or shutil.which(program, path=_SYSTEM_DIRECTORIES)


def path_of(program: str) -> str:
    """Return the path of ``program``; raises UsageError when it is not installed."""
    path = find(program)
    if path is None:
        raise UsageError(f"{program} is not installed")
    return path


def running_on(program: str, option: str) -> str:
    """Return the version that ``program option`` prints, and the TLS library that it reports to run on.

    HAProxy also prints the library that it was built with; the one that it runs on encrypts.
    """
    version = version_said(program, option)
    found = re.search(r"^Running on .*\bversion : (.+)$", _said(program, option), re.MULTILINE)
    return f"{version}, running on {found[1].strip()}" if found else version


def version_said(program: str, option: str) -> str:
    """Return the first line with a version number in it that ``program option`` prints."""
    lines = _said(program, option).splitlines()
    return next((line.strip() for line in lines if re.search(r"\d\.\d", line)), "unknown")


def _said(program: str, option: str) -> str:
    done = subprocess.run([path_of(program), option], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout + done.stderr

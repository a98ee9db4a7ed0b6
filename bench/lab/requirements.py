"""The requirements of a lab on this machine; everything that is missing is reported together."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

from tunnel import distribution
from tunnel.bench.lab.tools import find
from tunnel.errors import UsageError

# Program, and its Debian package.
PROGRAMS = {
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "setsid": "util-linux",
    "unshare": "util-linux",
}
LIBRARIES = ("psutil", "qemu.qmp")


def missing(find_program: Callable[[str], str | None] = find, uid: int | None = None) -> list[str]:
    """Return one line for each missing requirement; none if a lab can be set up here."""
    lines = []
    if (os.geteuid() if uid is None else uid) != 0:
        lines.append("root: namespaces, virtual network interfaces and libvirtd need it (sudo ./run lab up)")
    absent = [program for program in PROGRAMS if find_program(program) is None]
    if absent:
        packages = " ".join(dict.fromkeys(PROGRAMS[program] for program in absent))
        lines.append(f"programs: {', '.join(absent)} (apt-get install --no-install-recommends {packages})")
    libraries = [name for name in LIBRARIES if not _is_installed(name)]
    if libraries:
        lines.append(f"Python packages: {', '.join(libraries)} ({distribution.install_command('bench')})")
    return lines


def check() -> None:
    """Raise UsageError, listing everything that is missing, when a lab cannot be set up here."""
    lines = missing()
    if lines:
        raise UsageError("\n".join(["cannot set up the lab; missing:", *(f"  {x}" for x in lines)]))


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # of its parent package
        return False

"""The sandbox of the daemon: drops capabilities and file access that its configuration does not require.

Applied before any thread is started, and after the directories of its sockets were created. A compromised
daemon can then still access what its configuration names, but not guest disks, home directories, or the other
privileges of root.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tunnel
from tunnel.daemon.config import Config
from tunnel.daemon.config_types import LaneChoice
from tunnel.host import landlock, nftables, privileges
from tunnel.host.landlock import READ, RUN, SOCKETS, Access
from tunnel.host.privileges import Capability
from tunnel.relay.address import RedirectAddress, TcpAddress, UnixAddress
from tunnel.relay.allow_list import UnixRule
from tunnel.tls.tls_files import TlsFiles

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/sys", "/run", "/dev"),
    *("/var/lib/sss", "/var/lib/extrausers"),
)
"""Libraries, user and host databases, kernel interfaces."""
_LOADERS = ("/usr", "/lib", "/lib64")
"""Directories of the dynamic loader and the libraries."""
_PRIVILEGED = 1024
_READ, _SEARCH = 4, 1  # bits of a mode, for others


@dataclass(frozen=True, slots=True)
class Confinement:
    """The remaining privileges. ``landlock`` is the kernel's ABI version, 0 if files are not confined."""

    capabilities: tuple[Capability, ...]
    landlock: int

    def __str__(self) -> str:
        names = ", ".join(map(str, self.capabilities)) or "none"
        files = "confined" if self.landlock else "not confined: this kernel has no Landlock (5.13 or newer)"
        return f"capabilities: {names}; files: {files}"


def confine(config: Config, source: Path) -> Confinement:
    """Drop what ``config``, read from the file ``source``, does not require. Raises OSError."""
    version = landlock.restrict(files(config, source))
    return Confinement(tuple(privileges.keep_only(capabilities(config))), version)


def capabilities(config: Config) -> set[Capability]:
    """Return the capabilities that the daemon requires, if it is root."""
    needed = {Capability.NET_ADMIN}  # socket buffers, congestion control, and the rules of redirect
    if any(isinstance(rule, UnixRule) for peer in config.peers for rule in peer.rules):
        needed.add(Capability.DAC_OVERRIDE)  # sockets of QEMU's user
    if _unix_sockets(config):
        needed |= {Capability.DAC_OVERRIDE, Capability.CHOWN, Capability.FOWNER}
    if Capability.DAC_OVERRIDE not in needed and any(map(_is_hidden, _tls_files(config))):
        needed.add(Capability.DAC_READ_SEARCH)  # renewed certificates are read at runtime
    if config.transport.lane is not LaneChoice.USERSPACE:
        needed.add(Capability.SYS_RESOURCE)  # pipes larger than fs.pipe-max-size
    if _redirects(config) or min(_ports(config)) < _PRIVILEGED:
        needed.add(Capability.NET_BIND_SERVICE)
    return needed


def files(config: Config, source: Path) -> Mapping[Path, Access]:
    """Return the permitted access below each path."""
    allowed = dict.fromkeys(map(Path, _SYSTEM), READ)
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, *tunnel.__path__):
        allowed[Path(prefix).resolve()] = READ
    allowed |= {path.resolve(): READ for path in _parents_of_checkout()}
    for file in (source, *_tls_files(config)):
        allowed[file.resolve().parent] = READ
        allowed[file.parent.resolve()] = READ  # a symbolic link may have another target when renewed
    if nft := nftables.program():  # also without redirects: a stale table is removed
        allowed |= dict.fromkeys((*map(Path, _LOADERS), Path(nft).resolve().parent), RUN)
    allowed[Path("/dev/null")] = Access.READ_FILE | Access.WRITE_FILE
    for path in (config.host.control, *_unix_sockets(config)):
        allowed[path.parent.resolve()] = SOCKETS
    return allowed


def _parents_of_checkout() -> Iterator[Path]:
    """Yield the checkout of an editable installation, whose packages are not all below ``tunnel``."""
    for path in tunnel.__path__:
        checkout = Path(path).resolve().parent
        if (checkout / "pyproject.toml").is_file():
            yield checkout


def _tls_files(config: Config) -> list[Path]:
    tls = config.tls
    given = TlsFiles(tls.ca, tls.cert, tls.key, tls.crl)
    return [path for path in (tls.ca, tls.cert, tls.key, tls.crl, *given.dialing()) if path is not None]


def _is_hidden(file: Path) -> bool:
    """Whether ``file`` is readable only with a capability: keys often belong to another user."""
    path = file.resolve()
    return not (_permits(path, _READ) and all(_permits(parent, _SEARCH) for parent in path.parents))


def _permits(path: Path, bit: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return True  # the file does not exist yet
    if status.st_uid == os.geteuid():
        bit <<= 6
    elif status.st_gid in {os.getegid(), *os.getgroups()}:
        bit <<= 3
    return bool(status.st_mode & bit)


def _redirects(config: Config) -> bool:
    return any(isinstance(ingress.listen, RedirectAddress) for ingress in config.ingresses)


def _unix_sockets(config: Config) -> list[Path]:
    listens = (ingress.listen for ingress in config.ingresses)
    return [Path(listen.path) for listen in listens if isinstance(listen, UnixAddress)]


def _ports(config: Config) -> list[int]:
    listens = (ingress.listen for ingress in config.ingresses)
    return [config.host.listen.port, *(listen.port for listen in listens if isinstance(listen, TcpAddress))]

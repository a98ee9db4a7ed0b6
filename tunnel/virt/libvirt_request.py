"""The parameters of a migration through libvirt, and their translation into its flags and typed parameters.

Pure functions: flags are libvirt's names without ``VIR_MIGRATE_``; their bits are defined by the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tunnel.errors import UsageError
from tunnel.units import MIB


class Storage(StrEnum):
    """Which disks are copied: all, or only the differences from a shared backing file."""

    ALL = "all"
    INC = "inc"


@dataclass(frozen=True, slots=True)
class Request:
    """One migration through libvirt. ``bandwidth`` in bytes per second, None = unlimited.

    ``p2p``: managed by the source's libvirt, and survives the client; otherwise managed by the client
    ("managed direct"). ``parallel`` is the number of multifd channels, 0 = one plain stream.
    """

    migrate_uri: str
    listen_address: str | None = None
    disks_port: int | None = None
    disks_uri: str | None = None
    p2p: bool = True
    live: bool = True
    postcopy: bool = False
    postcopy_resume: bool = False
    parallel: int = 0
    storage: Storage | None = None
    persist: bool = False
    undefine_source: bool = False
    bandwidth: int | None = None
    auto_converge: bool = False
    tls_destination: str | None = None

    def check(self) -> None:
        """Raise UsageError for options that libvirt cannot combine."""
        if self.postcopy_resume and not self.postcopy:
            raise UsageError("--postcopy-resume needs --postcopy")
        if self.postcopy and self.parallel:
            raise UsageError("--postcopy and --parallel cannot be combined: QEMU's multifd has no post-copy")
        if self.bandwidth is not None and self.bandwidth < MIB:
            raise UsageError("--bandwidth: libvirt counts in MiB/s, the minimum is 1MiB")


def flags(request: Request) -> frozenset[str]:
    """Return the names of the flags, such as LIVE and PEER2PEER."""
    wanted = {
        "LIVE": request.live,
        "PEER2PEER": request.p2p,
        "POSTCOPY": request.postcopy,
        "POSTCOPY_RESUME": request.postcopy_resume,
        "PARALLEL": bool(request.parallel),
        "NON_SHARED_DISK": request.storage is Storage.ALL,
        "NON_SHARED_INC": request.storage is Storage.INC,
        "PERSIST_DEST": request.persist,
        "UNDEFINE_SOURCE": request.undefine_source,
        "AUTO_CONVERGE": request.auto_converge,
        "TLS": request.tls_destination is not None,
    }
    return frozenset(name for name, on in wanted.items() if on)


def parameters(request: Request) -> dict[str, str | int]:
    """Return the typed parameters, by libvirt's names."""
    return dict(_parameters(request))


def _parameters(request: Request) -> Iterator[tuple[str, str | int]]:
    yield "migrate_uri", request.migrate_uri
    if request.listen_address is not None:
        yield "listen_address", request.listen_address
    if request.storage is not None and request.disks_port is not None:
        yield "disks_port", request.disks_port
    if request.storage is not None and request.disks_uri is not None:
        yield "disks_uri", request.disks_uri
    if request.parallel:
        yield "parallel.connections", request.parallel
    if request.bandwidth is not None:
        yield "bandwidth", request.bandwidth // MIB
        if request.postcopy:
            yield "bandwidth.postcopy", request.bandwidth // MIB
    if request.tls_destination is not None:
        yield "tls.destination", request.tls_destination

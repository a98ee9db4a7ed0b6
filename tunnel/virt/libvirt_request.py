"""The translation of migration options into libvirt's flags and typed parameters.

Pure functions: flags are libvirt's names without ``VIR_MIGRATE_``; their bits are defined by the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunnel.units import MIB
from tunnel.virt.move_options import MoveOptions, Storage


@dataclass(frozen=True, slots=True)
class LibvirtRoute:
    """Where QEMU's streams go. ``listen_address`` is the destination's; the others are for copied disks."""

    migrate_uri: str
    listen_address: str | None = None
    disks_port: int | None = None
    disks_uri: str | None = None


def flags(options: MoveOptions) -> frozenset[str]:
    """Return the names of the flags, such as LIVE and PEER2PEER."""
    wanted = {
        "LIVE": options.live,
        "PEER2PEER": options.p2p,
        "POSTCOPY": options.postcopy,
        "POSTCOPY_RESUME": options.postcopy_resume,
        "PARALLEL": bool(options.parallel),
        "NON_SHARED_DISK": options.copy_storage is Storage.ALL,
        "NON_SHARED_INC": options.copy_storage is Storage.INC,
        "PERSIST_DEST": options.persist,
        "UNDEFINE_SOURCE": options.undefine_source,
        "AUTO_CONVERGE": options.auto_converge,
        "TLS": options.tls_destination is not None,
    }
    return frozenset(name for name, on in wanted.items() if on)


def parameters(options: MoveOptions, route: LibvirtRoute) -> dict[str, str | int]:
    """Return the typed parameters, by libvirt's names."""
    return dict(_parameters(options, route))


def _parameters(options: MoveOptions, route: LibvirtRoute) -> Iterator[tuple[str, str | int]]:
    yield "migrate_uri", route.migrate_uri
    if route.listen_address is not None:
        yield "listen_address", route.listen_address
    if options.copy_storage is not None and route.disks_port is not None:
        yield "disks_port", route.disks_port
    if options.copy_storage is not None and route.disks_uri is not None:
        yield "disks_uri", route.disks_uri
    if options.parallel:
        yield "parallel.connections", options.parallel
    if options.bandwidth is not None:
        yield "bandwidth", options.bandwidth // MIB
        if options.postcopy:
            yield "bandwidth.postcopy", options.bandwidth // MIB
    if options.tls_destination is not None:
        yield "tls.destination", options.tls_destination

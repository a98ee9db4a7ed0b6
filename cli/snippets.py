"""Commands and settings that migrate a guest to a peer, per program, or the reason why one is unavailable."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from tunnel.daemon.config import Config
from tunnel.daemon.rpc import LIBVIRT_PORT
from tunnel.daemon.uris import Routes, Way, find_entry, find_routes
from tunnel.errors import UsageError

_CHANNELS = 4
_ANY_GUEST = "GUEST"
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A recipe for ``program``: ``lines`` to copy, or the reason why the configuration does not allow it.

    ``place`` is where the lines belong, if not in this host's shell.
    """

    program: str
    name: str
    lines: tuple[str, ...] = ()
    reason: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    routes: Routes
    guest: str
    libvirt: str
    way: Way


def recipes(
    config: Config, peer: str, guest: str | None, desturi: str | None, via: str | None = None
) -> list[Snippet]:
    """Return all recipes for ``peer``, through the ingress ``via`` if there are several.

    Raises UsageError when the configuration does not contain one of them.
    """
    routes = find_routes(config, peer, guest, via)
    return [
        *_with_libvirt(config, routes, guest or _ANY_GUEST, desturi),
        _qemu(config, peer, guest, via),
    ]


def _with_libvirt(config: Config, routes: Routes, guest: str, desturi: str | None) -> Iterator[Snippet]:
    try:
        plan = _Plan(routes, guest, routes.require_libvirt(desturi), routes.require_way())
    except UsageError as error:
        for program in ("virsh", "libvirt-python", "nova"):
            yield Snippet(program, "all", reason=str(error))
        return
    yield from _virsh(plan)
    yield _python(plan)
    yield _nova(config, plan, given=desturi is not None)


# virsh.


def _virsh(plan: _Plan) -> Iterator[Snippet]:
    manners = {
        "managed direct": (),
        "peer to peer": ("--p2p",),
        "multifd": ("--p2p", "--parallel", "--parallel-connections", str(_CHANNELS)),
        "post-copy": ("--p2p", "--postcopy", "--postcopy-after-precopy"),
        "post-copy recovery": ("--p2p", "--postcopy", "--postcopy-resume"),
    }
    if _is_id(plan.guest):
        reason = f"virsh interprets {plan.guest} as an id or UUID, not a name: use mtunnel migrate"
        yield Snippet("virsh", "all", reason=reason)
        return
    for name, options in manners.items():
        yield Snippet("virsh", name, (_virsh_line(plan, *options),))
    if plan.way.no_disks:
        yield Snippet("virsh", "storage", reason=plan.way.no_disks)
    else:
        yield Snippet(
            "virsh", "storage", (_virsh_line(plan, "--p2p", "--copy-storage-all", *_disks(plan.way)),)
        )


def _virsh_line(plan: _Plan, *options: str) -> str:
    listen = ("--listen-address", plan.way.listen_address) if plan.way.listen_address else ()
    route = ("--migrateuri", plan.way.migrate_uri, *listen)
    which = (plan.guest, plan.libvirt)
    if plan.guest.startswith("-"):  # end of options
        return shlex.join(["virsh", "migrate", "--live", *options, *route, "--", *which])
    return shlex.join(["virsh", "migrate", "--live", *options, *which, *route])


def _is_id(guest: str) -> bool:
    """Return whether virsh, which tries ids and UUIDs first, may find another guest by this name."""
    return guest.isdecimal() or _UUID.fullmatch(guest) is not None


def _disks(way: Way) -> tuple[str, ...]:
    if way.disks_uri:
        return ("--disks-uri", way.disks_uri)
    return ("--disks-port", str(way.disks_port)) if way.disks_port else ()


# libvirt-python.


def _python(plan: _Plan) -> Snippet:
    parameters = {"libvirt.VIR_MIGRATE_PARAM_URI": plan.way.migrate_uri}
    if plan.way.listen_address:
        parameters["libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS"] = plan.way.listen_address
    return Snippet(
        "libvirt-python",
        "peer to peer",
        (
            "import libvirt",
            "",
            'guest = libvirt.open("qemu:///system").lookupByName(' + _quoted(plan.guest) + ")",
            "guest.migrateToURI3(",
            f"    {_quoted(plan.libvirt)},",
            "    {",
            *(f"        {name}: {_quoted(value)}," for name, value in parameters.items()),
            "    },",
            "    libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER,",
            ")",
        ),
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# OpenStack Nova. It puts live_migration_inbound_addr of the destination into both URIs, without a port.


def _nova(config: Config, plan: _Plan, *, given: bool) -> Snippet:
    peer, way = plan.routes.peer, plan.way
    if not way.any_port:
        return Snippet(
            "nova", "all", reason="Nova specifies no port: it needs a redirect: ingress with port 49152"
        )
    alias = urlsplit(way.migrate_uri).hostname or ""
    template = _nova_setting(plan.libvirt, alias)
    if template is None:
        where = "--desturi" if given else "the libvirt ingress"
        reason = (
            f"Nova inserts {alias} into live_migration_uri (%s): {where} must contain it, as in "
            f"unix:/run/mtunnel/{alias}/libvirt-sock"
        )
        return Snippet("nova", "all", reason=reason)
    return Snippet(
        "nova",
        "all",
        (
            f"# nova.conf, [libvirt], on {peer}; {alias} must lead to {peer} on every source",
            f"live_migration_inbound_addr = {alias}",
            f"# nova.conf, [libvirt], on {config.host.name} and every other source",
            template,
            f"# qemu.conf on {peer}: Nova does not set the listen address",
            'migration_address = "127.0.0.1"',
        ),
    )


def _nova_setting(uri: str, alias: str) -> str | None:
    """Return the setting that makes Nova build ``uri`` from ``alias``; None if that is impossible.

    Nova's formatting fails without a %s, and any other % must be doubled.
    """
    if uri == f"qemu+tcp://{alias}:{LIBVIRT_PORT}/system":
        return "live_migration_scheme = tcp"
    if uri.count(alias) != 1:
        return None
    return f"live_migration_uri = {uri.replace('%', '%%').replace(alias, '%s')}"


# QEMU's own monitor.


def _qemu(config: Config, peer: str, guest: str | None, via: str | None) -> Snippet:
    try:
        entry = find_entry(config, peer, via, guest)
    except UsageError as error:
        return Snippet("qemu", "all", reason=str(error))
    return Snippet(
        "qemu",
        "plain",
        (
            f"-incoming {entry.listen}",
            "migrate_set_capability return-path on",
            f"migrate -d {entry.uri}",
        ),
        place=f"option of QEMU on {peer}, then monitor commands on this host",
    )

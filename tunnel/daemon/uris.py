"""The URIs with which libvirt and QEMU connect to a peer through the tunnel, by the configuration.

Pure functions. libvirt's rules determine which ingresses it can use:

- with ``tcp://`` the destination listens on the port in the migration URI, and disks use the same address;
  so the target of an ingress must have the same port;
- with ``unix://`` the destination listens on the path that the source connects to;
- without a port libvirt chooses one, from 49152 up: only a ``redirect:`` ingress covers it.

QEMU without libvirt has no such rules: any ``target`` can be used.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tunnel.daemon import rpc, socket_names
from tunnel.daemon.config import Config, IngressConfig
from tunnel.errors import UsageError
from tunnel.relay.address import ListenAddress, RedirectAddress, TcpAddress, UnixAddress, parse_listen

FIRST_PORT = 49152
"""The first port that libvirt tries (migration_port_min in qemu.conf)."""

_LOCALHOST = "127.0.0.1"
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Way:
    """The route of a guest's memory and disks under libvirt: the URIs of one migration.

    ``listen_address`` is the destination's. If ``disks_port`` and ``disks_uri`` are both None, libvirt picks
    the port for disks with ``any_port``; otherwise disks have no route, for the reason ``no_disks``.
    ``memory`` and ``disks`` are the addresses in the URIs, both None with ``any_port``.
    """

    ingress: str
    migrate_uri: str
    listen_address: str | None = None
    any_port: bool = False
    disks_port: int | None = None
    disks_uri: str | None = None
    no_disks: str | None = None
    memory: ListenAddress | None = None
    disks: ListenAddress | None = None


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes to ``peer``. ``no_way`` and ``no_libvirt`` are the errors when there is none."""

    peer: str
    way: Way | None
    no_way: str
    libvirt_uri: str | None
    no_libvirt: str

    def require_way(self, *, disks: bool = False) -> Way:
        """Return the route of memory, with ``disks`` also of disks. Raises UsageError if there is none."""
        if self.way is None:
            raise UsageError(self.no_way)
        if disks and self.way.no_disks:
            raise UsageError(self.way.no_disks)
        return self.way

    def require_libvirt(self, given: str | None) -> str:
        """Return the URI of the peer's libvirt: ``given``, or through the tunnel. Raises UsageError."""
        uri = given or self.libvirt_uri
        if uri is None:
            raise UsageError(self.no_libvirt)
        return uri


@dataclass(frozen=True, slots=True)
class Entry:
    """Where QEMU connects at the source and listens at the destination, in QEMU's syntax."""

    uri: str
    listen: str


def find_routes(config: Config, peer: str, guest: str | None = None, via: str | None = None) -> Routes:
    """Return the routes for ``guest`` (or any) to ``peer``. ``via`` overrides the choice of the ingress.

    Raises UsageError when there is no such peer or ingress.
    """
    known_peer(config, peer)
    mine = [ingress for ingress in config.ingresses if ingress.peer == peer]
    way, reasons = _best_way(mine, guest, via)
    return Routes(
        peer,
        way,
        _no_way(peer, reasons),
        _best_libvirt(mine),
        f"no ingress of {peer} leads to its libvirt: give --desturi, or add [[ingress]] with "
        f'peer = "{peer}", listen = "unix:/run/mtunnel/{peer}/libvirt-sock", '
        f'target = "unix:/run/libvirt/libvirt-sock" here, and that target to the egress list on {peer}',
    )


def find_entry(
    config: Config, peer: str, via: str | None = None, guest: str | None = None, not_this: str = ""
) -> Entry:
    """Return the addresses for QEMU without libvirt. ``not_this`` is a socket with another use.

    Raises UsageError when no ingress leads to ``peer``, or when ``via`` is no ingress.
    """
    known_peer(config, peer)
    other = f"unix:{posixpath.normpath(not_this)}"
    mine = [ingress for ingress in _for_migrations(config, peer) if str(ingress.listen) != other]
    if via is not None:
        return _entry(*_named(mine, via))
    chosen, reasons = _chosen(mine, guest)
    if chosen is None:
        raise UsageError(_no_way(peer, reasons))
    return _entry(chosen, None)


def known_peer(config: Config, peer: str) -> None:
    """Raise UsageError when the configuration has no ``[[peer]]`` of that name."""
    names = [known.name for known in config.peers]
    if peer == config.host.name:
        raise UsageError(f"{peer} is this host (host.name): give the destination host")
    if peer not in names:
        nearest = get_close_matches(peer, names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names) or 'none'}"
        raise UsageError(f"the configuration has no [[peer]] named {peer!r}: {hint}")


def _for_migrations(config: Config, peer: str) -> list[IngressConfig]:
    return [
        ingress for ingress in config.ingresses if ingress.peer == peer and not rpc.is_libvirt(ingress.target)
    ]


def _best_libvirt(mine: Sequence[IngressConfig]) -> str | None:
    """Prefer a socket, then plain TCP; libvirt's TLS requires a certificate that names the alias."""
    found = [uri for ingress in mine if (uri := rpc.libvirt_uri(ingress))]
    order = ("qemu+unix:", "qemu+tcp:", "qemu+tls:")
    return min(found, key=lambda uri: order.index(uri[: uri.index(":") + 1]), default=None)


def _best_way(
    mine: Sequence[IngressConfig], guest: str | None, via: str | None
) -> tuple[Way | None, list[str]]:
    """Return the best route, or the reasons why there is none."""
    candidates = [ingress for ingress in mine if not rpc.is_libvirt(ingress.target)]
    fit = [ingress for ingress in candidates if _unfit(ingress) is None]
    if via is not None:
        ingress, port = _named(candidates, via)
        if reason := _unfit(ingress):
            return None, [reason]
        return _way(ingress, fit, guest, port), []
    chosen, reasons = _chosen(fit, guest)
    if chosen is None:
        return None, [*reasons, *(reason for ingress in candidates if (reason := _unfit(ingress)))]
    return _way(chosen, fit, guest, None), []


def _chosen(ingresses: Sequence[IngressConfig], guest: str | None) -> tuple[IngressConfig | None, list[str]]:
    """Return the ingress for ``guest``'s memory, or the reasons why there is none.

    Redirects first, since they serve any number of guests, then ports, then sockets: the one with the guest's
    whole name, or the only candidate.
    """
    for kind in (RedirectAddress, TcpAddress):
        for ingress in ingresses:
            if isinstance(ingress.listen, kind):
                return ingress, []
    sockets = {
        ingress.listen.path: ingress for ingress in ingresses if isinstance(ingress.listen, UnixAddress)
    }
    if guest is not None:
        for path, ingress in sockets.items():
            if socket_names.carries_memory_of(path, guest):
                return ingress, []
    free = [
        path for path in sockets if not socket_names.is_for_disks(path) and not socket_names.is_monitor(path)
    ]
    if not free:
        return None, []
    if len(free) == 1 and not (guest is not None and socket_names.may_be_anothers(free[0], guest)):
        return sockets[free[0]], []
    advice = f"none is named {guest}.sock: choose one with --via" if guest else "name the guest or give --via"
    return None, [f"cannot choose a socket ({', '.join(free)}): {advice}"]


def _unfit(ingress: IngressConfig) -> str | None:
    """Return why libvirt cannot use the ingress for memory; None if it can."""
    match ingress.listen, ingress.target:
        case TcpAddress(_, port), TcpAddress(_, other) if port != other:
            return (
                f"{ingress.listen} leads to port {other}, but under libvirt the destination listens on the "
                "port in the migration URI: use the same port for both"
            )
        case TcpAddress(), UnixAddress():
            return f"{ingress.listen} leads to a socket, but libvirt listens on TCP for a tcp: URI"
        case UnixAddress(path), target if target != ingress.listen:
            return (
                f"unix:{path} leads to {target}, but under libvirt the destination listens on the path in "
                "the migration URI: remove target"
            )
    return None


def _way(ingress: IngressConfig, fit: Sequence[IngressConfig], guest: str | None, port: int | None) -> Way:
    match ingress.listen:
        case RedirectAddress(host, first, last):
            return _redirected(ingress, host, first, last, port)
        case TcpAddress():
            return _through_port(ingress, ingress.listen, fit)
        case UnixAddress(path):
            return _through_socket(ingress, path, fit, guest)


def _redirected(ingress: IngressConfig, host: str, first: int, last: int, port: int | None) -> Way:
    listen = str(ingress.listen)
    if port is None and first <= FIRST_PORT <= last:
        return Way(listen, f"tcp://{host}", _LOCALHOST, any_port=True)
    chosen = port or first
    disks = next((other for other in range(first, last + 1) if other != chosen), None)
    missing = f"{listen} has a single port, and disks need another one" if disks is None else None
    return Way(
        listen,
        f"tcp://{host}:{chosen}",
        _LOCALHOST,
        disks_port=disks,
        no_disks=missing,
        memory=TcpAddress(host, chosen),
        disks=TcpAddress(host, disks) if disks is not None else None,
    )


def _through_port(ingress: IngressConfig, address: TcpAddress, fit: Sequence[IngressConfig]) -> Way:
    others = [
        other.listen
        for other in fit
        if isinstance(other.listen, TcpAddress)
        and other.listen.host == address.host
        and other.listen.port != address.port
    ]
    missing = None
    if not others:
        free = address.port + 1 if address.port < _LAST_PORT else address.port - 1
        missing = (
            f"disks need a separate port on {address.host}: add [[ingress]] with listen = "
            f'"{TcpAddress(address.host, free)}", or use redirect:'
        )
    return Way(
        ingress=str(address),
        migrate_uri=f"tcp://{rpc.authority(address)}",
        listen_address=ingress.target.host if isinstance(ingress.target, TcpAddress) else None,
        disks_port=others[0].port if others else None,
        no_disks=missing,
        memory=address,
        disks=others[0] if others else None,
    )


def _through_socket(
    ingress: IngressConfig, path: str, fit: Sequence[IngressConfig], guest: str | None
) -> Way:
    sockets = [other.listen.path for other in fit if isinstance(other.listen, UnixAddress)]
    disks = _disks_socket([other for other in sockets if other != path], path, guest)
    missing = None
    if disks is None:
        stem, suffix = posixpath.splitext(path)
        own = f"unix:{stem}-disks{suffix}"
        missing = f'disks need a separate socket: add [[ingress]] with listen = "{own}"'
    return Way(
        str(ingress.listen),
        f"unix://{path}",
        disks_uri=f"unix://{disks}" if disks is not None else None,
        no_disks=missing,
        memory=UnixAddress(path),
        disks=UnixAddress(disks) if disks is not None else None,
    )


def _disks_socket(others: Sequence[str], path: str, guest: str | None) -> str | None:
    """Return the disks socket for a migration over ``path``: by guest, by that socket's name, or generic."""
    for name in (guest, socket_names.stem(path)):
        for other in others:
            if name is not None and socket_names.carries_disks_of(other, name):
                return other
    return next((other for other in others if socket_names.is_for_any_disks(other)), None)


def _named(candidates: Sequence[IngressConfig], via: str) -> tuple[IngressConfig, int | None]:
    """Return the ingress that ``via`` names, with the port if it is in a redirected range."""
    try:
        wanted = parse_listen(via)
    except ValueError as error:
        raise UsageError(f"--via: {error}") from None
    for ingress in candidates:
        match ingress.listen, wanted:
            case listen, _ if listen == wanted:
                return ingress, None
            case RedirectAddress(host, first, last), TcpAddress(same, port) if host == same:
                if first <= port <= last:
                    return ingress, port
    known = ", ".join(str(ingress.listen) for ingress in candidates) or "none"
    raise UsageError(f"--via: {wanted} is not a migration ingress of this peer; available: {known}")


def _entry(ingress: IngressConfig, port: int | None) -> Entry:
    match ingress.listen:
        case RedirectAddress(host, first, _):
            chosen = port or first
            return Entry(f"tcp:{host}:{chosen}", f"tcp:{_LOCALHOST}:{chosen}")
        case listen:
            return Entry(str(listen), str(ingress.target))


def _no_way(peer: str, reasons: Sequence[str]) -> str:
    return "; ".join(_explanation(peer, reasons))


def _explanation(peer: str, reasons: Sequence[str]) -> Iterator[str]:
    yield f"no ingress can carry a migration to {peer}"
    if reasons:
        yield from reasons
    else:
        yield f'add [[ingress]] with peer = "{peer}", listen = "redirect:127.0.1.2:49152-49215"'

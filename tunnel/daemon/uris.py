"""How a hypervisor reaches a peer, by the configuration: the URIs that libvirt and QEMU are given.

Pure. libvirt has rules of its own, which decide what an ingress can be used for:

- with ``tcp://`` the destination listens on the very port that the migration URI names, and disks go to the
  same address; so an ingress must lead to its own port number;
- with ``unix://`` the destination listens on the very path that the source connects to;
- without a port libvirt takes one from 49152 up by itself: only a ``redirect:`` ingress follows it there.

QEMU by itself has no such rules: there an ingress leads to whatever its ``target`` says.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tunnel.daemon import rpc, socket_names
from tunnel.daemon.config import Config, IngressConfig
from tunnel.errors import UsageError
from tunnel.relay.address import (
    ListenAddress,
    RedirectAddress,
    TcpAddress,
    UnixAddress,
    parse_listen,
)

FIRST_PORT = 49152
"""Where libvirt begins to look for a free port (migration_port_min in qemu.conf)."""

_LOCALHOST = "127.0.0.1"
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Way:
    """How the memory of a guest travels under libvirt, and its disks: the URIs of one migration.

    ``listen_address`` is the destination's. With ``disks_port`` and ``disks_uri`` both None libvirt picks the
    disks' port itself if ``any_port``; otherwise disks have no way, for the reason ``no_disks``. ``memory``
    and ``disks`` are the addresses that the URIs name, both None with ``any_port``.
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
    """What leads to ``peer``. ``no_way`` and ``no_libvirt`` say why there is none, and what to configure."""

    peer: str
    way: Way | None
    no_way: str
    libvirt_uri: str | None
    no_libvirt: str

    def require_way(self, *, disks: bool = False) -> Way:
        """How memory travels, and with ``disks`` they too. Raises UsageError, saying what to configure."""
        if self.way is None:
            raise UsageError(self.no_way)
        if disks and self.way.no_disks:
            raise UsageError(self.way.no_disks)
        return self.way

    def require_libvirt(self, given: str | None) -> str:
        """Return the URI of the peer's libvirt: the one that was ``given``, or through the tunnel."""
        uri = given or self.libvirt_uri
        if uri is None:
            raise UsageError(self.no_libvirt)
        return uri


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the source's QEMU connects and the destination's listens, as QEMU writes it."""

    uri: str
    listen: str


def find_routes(config: Config, peer: str, guest: str | None = None, via: str | None = None) -> Routes:
    """Derive the URIs for ``guest`` (or any) to ``peer``. ``via`` names the ingress, if not the best one.

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
    """How QEMU without libvirt reaches ``peer``. ``not_this`` is a socket that is used for something else.

    Raises UsageError when nothing leads there, or when ``via`` names nothing.
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
        raise UsageError(f"{peer} is this host (host.name): name the host that the guest is to move to")
    if peer not in names:
        nearest = get_close_matches(peer, names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names) or 'none'}"
        raise UsageError(f"the configuration has no [[peer]] named {peer!r}: {hint}")


def _for_migrations(config: Config, peer: str) -> list[IngressConfig]:
    return [
        ingress for ingress in config.ingresses if ingress.peer == peer and not rpc.is_libvirt(ingress.target)
    ]


def _best_libvirt(mine: Sequence[IngressConfig]) -> str | None:
    """A socket first, then plain TCP; libvirt's TLS also wants a certificate that names the alias."""
    found = [uri for ingress in mine if (uri := rpc.libvirt_uri(ingress))]
    order = ("qemu+unix:", "qemu+tcp:", "qemu+tls:")
    return min(found, key=lambda uri: order.index(uri[: uri.index(":") + 1]), default=None)


def _best_way(
    mine: Sequence[IngressConfig], guest: str | None, via: str | None
) -> tuple[Way | None, list[str]]:
    """The way to take, or why there is none."""
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
    """The ingress to take for ``guest``'s memory, or why there is none.

    Redirects first, since they serve any number of guests, then ports. Of sockets it is the guest's own by
    its whole name, or the only one that there is.
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
    return None, [f"of the sockets that lead there ({', '.join(free)}) {advice}"]


def _unfit(ingress: IngressConfig) -> str | None:
    """Why libvirt cannot use it for memory; None if it can."""
    match ingress.listen, ingress.target:
        case TcpAddress(_, port), TcpAddress(_, other) if port != other:
            return (
                f"{ingress.listen} leads to port {other}, but libvirt lets the destination listen on the "
                "port that the migration URI names: make both the same"
            )
        case TcpAddress(), UnixAddress():
            return f"{ingress.listen} leads to a socket, but libvirt listens on TCP for a tcp: URI"
        case UnixAddress(path), target if target != ingress.listen:
            return (
                f"unix:{path} leads to {target}, but libvirt lets the destination listen on the path that "
                "the migration URI names: leave target out"
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
    missing = f"{listen} has one port only, and disks need another" if disks is None else None
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
            f"disks need a port of their own on {address.host}: add [[ingress]] with listen = "
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
        missing = f'disks need a socket of their own: add [[ingress]] with listen = "{own}"'
    return Way(
        str(ingress.listen),
        f"unix://{path}",
        disks_uri=f"unix://{disks}" if disks is not None else None,
        no_disks=missing,
        memory=UnixAddress(path),
        disks=UnixAddress(disks) if disks is not None else None,
    )


def _disks_socket(others: Sequence[str], path: str, guest: str | None) -> str | None:
    """The socket for the disks of what goes over ``path``: the guest's, or that socket's, or anybody's."""
    for name in (guest, socket_names.stem(path)):
        for other in others:
            if name is not None and socket_names.carries_disks_of(other, name):
                return other
    return next((other for other in others if socket_names.is_for_any_disks(other)), None)


def _named(candidates: Sequence[IngressConfig], via: str) -> tuple[IngressConfig, int | None]:
    """The ingress that ``via`` means, and the port if it is one of a redirected range."""
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
    raise UsageError(f"--via: {wanted} is no ingress to this peer for migrations; there is {known}")


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

"""The loopback addresses that stand for peers, and what keeps other programs off them.

A guard is a route (``transport/guard``) and a rule (``transport/nftables``). It is in force from the first
``serve`` or ``mtunnel guard`` after a boot; neither the daemon's end nor a change of the firewall lifts it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tunnel.daemon.config import Config
from tunnel.errors import UsageError
from tunnel.host import guard_route, nftables
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.net.sockets import reason_of
from tunnel.relay.address import RedirectAddress, TcpAddress

HOSTS = Path("/etc/hosts")
_DEBIANS_OWN = "127.0.1.1"
"""What Debian's installer gives to the host's own name."""


def own_names(alias: str, host: str) -> list[str]:
    """What ``alias`` is called in /etc/hosts, if that is this host: its programs use the address then.

    ``host`` is the host's name by the configuration. Other names are the operator's for the peer.
    """
    try:
        lines = HOSTS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.partition("#")[0].split() for line in lines]
    names = [name for address, *names in filter(None, words) if address == alias for name in names]
    short = {name.partition(".")[0].lower() for name in names}
    own = {each.partition(".")[0].lower() for each in (socket.gethostname(), host)}
    return names if alias == _DEBIANS_OWN or short & own else []


def guarded(config: Config) -> list[str]:
    """The aliases of ``config`` to guard: those of ``redirect:``, unless they are this host's own name."""
    found = dict.fromkeys(
        ingress.listen.host for ingress in config.ingresses if isinstance(ingress.listen, RedirectAddress)
    )
    return [alias for alias in found if not own_names(alias, config.host.name)]


def unguarded(aliases: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each of ``aliases`` from which a program of this host could answer, and why."""
    for alias in aliases:
        try:
            if not guard_route.is_guarded(alias):
                yield alias, _why(alias)
        except OSError as error:
            yield alias, f"the kernel does not tell whether {alias} is guarded: {reason_of(error)}"


def install(aliases: Iterable[str]) -> None:
    """Guard ``aliases``. Raises UsageError."""
    for alias in aliases:
        try:
            guard_route.install(alias)
        except OSError as error:
            raise UsageError(f"cannot guard {alias} by a route: {reason_of(error)}") from None


def discard(table: RedirectTable, keep: Iterable[str] = ()) -> None:
    """Take back the routes of guards that no daemon on this machine wants; ``keep`` those of ``table``'s.

    Whoever adds a route has its table first: a route that is found here with no table is nobody's. Raises
    OSError, or UsageError when ``nft`` fails.
    """
    unknown = guard_route.installed() - set(keep)
    if unknown:
        for alias in unknown - nftables.guarded_by(nftables.our_tables() - {table.name}):
            guard_route.remove(alias)


def left_behind(config: Config) -> set[str]:
    """Addresses of ``tcp:`` ingresses that a former configuration of this daemon still guards.

    Nobody can listen there. Empty where that cannot be found out.
    """
    wanted = {each.listen.host for each in config.ingresses if isinstance(each.listen, TcpAddress)}
    with suppress(OSError, UsageError):
        if found := wanted & guard_route.installed() - set(guarded(config)):
            others = nftables.our_tables() - {RedirectTable(config.host.name).name}
            return found - nftables.guarded_by(others)
    return set()


def release(config: Config) -> None:
    """Let the addresses of ``left_behind`` be listened at again, if this process may do that."""
    with suppress(OSError):
        for alias in left_behind(config):
            guard_route.remove(alias)


def put_in_place(config: Config) -> list[str]:
    """Guard what ``config`` redirects, while no daemon does; the guarded aliases. Raises UsageError.

    A table that is there is a running daemon's, or holds the same guard already.
    """
    aliases = guarded(config)
    if aliases:
        if problem := nftables.unavailable_reason():
            raise UsageError(problem)
        table = RedirectTable(config.host.name)
        if not _exists(table):  # before the routes: it tells other daemons whose they are
            table.close(_rules(config))
        install(aliases)
    return aliases


def take_away(config: Config) -> None:
    """Undo ``put_in_place``, after the daemon's end. Raises UsageError."""
    table = RedirectTable(config.host.name)
    try:
        if _exists(table):
            table.remove()
        discard(table)
    except OSError as error:
        raise UsageError(f"cannot remove the guard: {reason_of(error)}") from None


def _exists(table: RedirectTable) -> bool:
    try:
        return table.exists()
    except OSError as error:
        raise UsageError(f"cannot look for the nftables table {table.name}: {reason_of(error)}") from None


def _rules(config: Config) -> Iterator[Redirect]:
    own = set(guarded(config))
    for ingress in config.ingresses:
        if isinstance(ingress.listen, RedirectAddress):
            host, first, last = ingress.listen.host, ingress.listen.first_port, ingress.listen.last_port
            yield Redirect(host, first, last, 0, exclusive=host in own)


def _why(alias: str) -> str:
    if alias in guard_route.installed():
        return (
            f"{alias} is the address of an interface, so programs of this host can answer from it:"
            f" remove it there (ip address del {alias} dev lo); an alias needs none"
        )
    return f"no route guards {alias}: programs of this host can answer from it"

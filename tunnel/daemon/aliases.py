"""Aliases, the loopback addresses that represent peers, and the guard that protects them from local programs.

A guard is a route (``host/guard_route``) and a rule (``host/nftables``). It is in place from the first
``serve`` or ``mtunnel guard`` after a boot; it survives the daemon and changes of the firewall.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tunnel.daemon.config import Config
from tunnel.errors import UsageError
from tunnel.host import guard_route, nftables
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.net.sockets import reason_of
from tunnel.relay.address import RedirectAddress, TcpAddress

HOSTS = Path("/etc/hosts")
_DEBIANS_OWN = "127.0.1.1"
"""Debian's installer assigns this address to the host's own name."""


class Unguarded(NamedTuple):
    """An alias from which a local program could reply, the reason, and whether its guard route is missing."""

    alias: str
    reason: str
    no_route: bool = False


def own_names(alias: str, host: str) -> list[str]:
    """Return the names of ``alias`` in /etc/hosts if one of them is this host, whose programs then use it.

    ``host`` is the host's name in the configuration. Other names are the operator's names for the peer.
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
    """Return the aliases to guard: those of ``redirect:``, except addresses of this host's own name."""
    found = dict.fromkeys(
        ingress.listen.host for ingress in config.ingresses if isinstance(ingress.listen, RedirectAddress)
    )
    return [alias for alias in found if not own_names(alias, config.host.name)]


def unguarded(aliases: Iterable[str]) -> Iterator[Unguarded]:
    """Yield each of ``aliases`` from which a local program could reply."""
    for alias in aliases:
        try:
            if not guard_route.is_guarded(alias):
                yield _why(alias)
        except OSError as error:
            yield Unguarded(alias, f"cannot determine whether {alias} is guarded: {reason_of(error)}")


def install(aliases: Iterable[str]) -> None:
    """Guard ``aliases``. Raises UsageError."""
    for alias in aliases:
        try:
            guard_route.install(alias)
        except OSError as error:
            raise UsageError(f"cannot add a guard route for {alias}: {reason_of(error)}") from None


def discard(table: RedirectTable, keep: Iterable[str] = ()) -> None:
    """Remove the guard routes that no daemon on this machine uses; ``keep`` are those of ``table``.

    A daemon creates its table before its routes: a route without a table is stale. Raises OSError, or
    UsageError when ``nft`` fails.
    """
    unknown = guard_route.installed() - set(keep)
    if unknown:
        for alias in unknown - nftables.guarded_by(nftables.our_tables() - {table.name}):
            guard_route.remove(alias)


def left_behind(config: Config) -> set[str]:
    """Return the addresses of ``tcp:`` ingresses still guarded for a previous configuration of this daemon.

    No program can listen on them. Empty when this cannot be determined.
    """
    wanted = {each.listen.host for each in config.ingresses if isinstance(each.listen, TcpAddress)}
    with suppress(OSError, UsageError):
        if found := wanted & guard_route.installed() - set(guarded(config)):
            others = nftables.our_tables() - {RedirectTable(config.host.name).name}
            return found - nftables.guarded_by(others)
    return set()


def release(config: Config) -> None:
    """Remove the guards of ``left_behind``, if this process has the privilege."""
    with suppress(OSError):
        for alias in left_behind(config):
            guard_route.remove(alias)


def put_in_place(config: Config) -> list[str]:
    """Guard the aliases of ``config`` while no daemon runs; return them. Raises UsageError.

    An existing table belongs to a running daemon, or already has the same guard.
    """
    aliases = guarded(config)
    if aliases:
        if problem := nftables.unavailable_reason():
            raise UsageError(problem)
        table = RedirectTable(config.host.name)
        if not _exists(table):  # before the routes: the table marks them as ours for other daemons
            table.close(_rules(config))
        install(aliases)
    return aliases


def take_away(config: Config) -> None:
    """Undo ``put_in_place`` after the daemon has ended. Raises UsageError."""
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
        raise UsageError(f"cannot query the nftables table {table.name}: {reason_of(error)}") from None


def _rules(config: Config) -> Iterator[Redirect]:
    own = set(guarded(config))
    for ingress in config.ingresses:
        if isinstance(ingress.listen, RedirectAddress):
            host, first, last = ingress.listen.host, ingress.listen.first_port, ingress.listen.last_port
            yield Redirect(host, first, last, 0, exclusive=host in own)


def _why(alias: str) -> Unguarded:
    if alias in guard_route.installed():
        return Unguarded(
            alias,
            f"{alias} is assigned to an interface, so local programs can reply from it: remove it"
            f" (ip address del {alias} dev lo); an alias needs no interface address",
        )
    return Unguarded(alias, f"no route guards {alias}: local programs can reply from it", no_route=True)

"""Checks for contradictions between the tables of a configuration file.

Works on the parsed TOML, not on the validated models: those exist only if every value is valid, so that one
misspelt key would hide a contradiction elsewhere until the next attempt. Invalid values are skipped here, as
the models report them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias, TypeVar

from tunnel.daemon.config_errors import Problem
from tunnel.relay.address import (
    DEFAULT_PORT,
    Endpoint,
    ListenAddress,
    RedirectAddress,
    TcpAddress,
    UnixAddress,
    parse_endpoint,
    parse_listen,
    parse_name,
)
from tunnel.relay.allow_list import covers, parse_rule

Table: TypeAlias = Mapping[str, Any]
_T = TypeVar("_T")


_LOOP = (
    "{rule} lets the peer reach {where}, where this daemon itself listens:"
    " use another address or directory for one of them"
)


@dataclass(frozen=True, slots=True)
class _Ports:
    """TCP ports from ``first`` to ``last`` on ``host``."""

    host: str
    first: int
    last: int
    redirected: bool = False

    def collides(self, other: _Ports) -> bool:
        return self.first <= other.last and other.first <= self.last and self._same_host(other)

    def _same_host(self, other: _Ports) -> bool:
        if self.host == other.host:
            return True
        if self.redirected or other.redirected:
            return False  # it matches packets to its own address only, before the socket lookup
        mine, theirs = ipaddress.ip_address(self.host), ipaddress.ip_address(other.host)
        return mine.version == theirs.version and (mine.is_unspecified or theirs.is_unspecified)


@dataclass(frozen=True, slots=True)
class _Claim:
    """An address to listen on, and the key that configures it."""

    key: str
    address: ListenAddress | Endpoint

    def collides(self, other: _Claim) -> bool:
        one, two = _place(self.address), _place(other.address)
        if isinstance(one, _Ports) and isinstance(two, _Ports):
            return one.collides(two)
        return one == two


def contradictions(tables: Table, default_control: str) -> Iterator[Problem]:
    """Yield every contradiction in ``tables``, in the order of the file's sections."""
    host = _table(tables.get("host"))
    peers, ingresses = _entries(tables, "peer"), _entries(tables, "ingress")
    yield from _wrong_peers(_attempt(parse_name, host.get("name")), peers)
    yield from _wrong_ingresses({_attempt(parse_name, peer.get("name")) for peer in peers}, ingresses)
    yield from _loops(peers, [*_claims_of_control(host, default_control), *_claims_of_ingresses(ingresses)])
    yield from _overlaps([*_claims_of_host(host, default_control), *_claims_of_ingresses(ingresses)])


def _wrong_peers(own_name: str | None, peers: Iterable[Table]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for index, peer in enumerate(peers):
        key, name = f"peer[{index}].name", _attempt(parse_name, peer.get("name"))
        if name is None:
            continue
        if name == own_name:
            yield key, f"{name} is this host (host.name): a host cannot be its own peer"
        if name in seen:
            yield key, f"{name} is already defined by {seen[name]}"
        seen.setdefault(name, key)


def _wrong_ingresses(known: set[str | None], ingresses: Iterable[Table]) -> Iterator[Problem]:
    for index, ingress in enumerate(ingresses):
        name = _attempt(parse_name, ingress.get("peer"))
        if name is not None and name not in known:
            yield f"ingress[{index}].peer", f"there is no [[peer]] named {name}"
        listen = _attempt(parse_listen, ingress.get("listen"))
        if isinstance(listen, RedirectAddress) and "target" in ingress:
            yield (
                f"ingress[{index}].target",
                f"a redirect keeps the destination port: remove target, or listen on tcp:{listen.host}:PORT",
            )


def _loops(peers: Iterable[Table], claims: Iterable[_Claim]) -> Iterator[Problem]:
    """Yield every egress rule that covers an address on which this daemon listens: a forwarding loop."""
    listens = [(each.address, each.key) for each in claims if not isinstance(each.address, Endpoint)]
    for index, peer in enumerate(peers):
        rules = peer.get("egress")
        for number, text in enumerate(rules if isinstance(rules, list) else ()):
            rule = _attempt(parse_rule, text)
            for address, claimed in listens:
                if rule is not None and covers(rule, address):
                    key, where = f"peer[{index}].egress[{number}]", f"{address} ({claimed})"
                    yield key, _LOOP.format(rule=rule, where=where)


def _claims_of_control(host: Table, default_control: str) -> Iterator[_Claim]:
    control = _attempt(UnixAddress, host.get("control", default_control))
    if control is not None:
        yield _Claim("host.control", control)


def _claims_of_host(host: Table, default_control: str) -> Iterator[_Claim]:
    listen = _attempt(lambda text: parse_endpoint(text, DEFAULT_PORT), host.get("listen"))
    metrics = _attempt(parse_endpoint, host.get("metrics"))
    control = _attempt(UnixAddress, host.get("control", default_control))
    claims = {"host.listen": listen, "host.metrics": metrics, "host.control": control}
    yield from (_Claim(key, address) for key, address in claims.items() if address is not None)


def _claims_of_ingresses(ingresses: Iterable[Table]) -> Iterator[_Claim]:
    for index, ingress in enumerate(ingresses):
        listen = _attempt(parse_listen, ingress.get("listen"))
        if listen is not None:
            yield _Claim(f"ingress[{index}].listen", listen)


def _overlaps(claims: Iterable[_Claim]) -> Iterator[Problem]:
    for first, second in combinations(claims, 2):
        if first.collides(second):
            yield second.key, f"{second.address} is already used by {first.key} ({first.address})"


def _place(address: ListenAddress | Endpoint) -> UnixAddress | _Ports:
    match address:
        case UnixAddress():
            return address
        case RedirectAddress(host, first, last):
            return _Ports(host, first, last, redirected=True)
        case TcpAddress(host, port) | Endpoint(host, port):
            return _Ports(host, port, port)


def _entries(tables: Table, section: str) -> list[Table]:
    """Return the ``[[section]]`` tables, with an empty one for an invalid entry, to preserve indices."""
    entries = tables.get(section)
    return [_table(entry) for entry in entries] if isinstance(entries, list) else []


def _table(value: object) -> Table:
    return value if isinstance(value, Mapping) else {}


def _attempt(parse: Callable[[str], _T], value: object) -> _T | None:
    try:
        return parse(value) if isinstance(value, str) else None
    except ValueError:
        return None

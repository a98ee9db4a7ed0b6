"""The targets on this host that a peer may reach: rules, from their text in the configuration.

All errors are ValueErrors, with a text for the operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import PurePosixPath
from typing import TypeAlias

from tunnel.relay.address import (
    ListenAddress,
    RedirectAddress,
    TargetAddress,
    TcpAddress,
    UnixAddress,
    bracketed,
    canonical_ip,
    canonical_path,
    check_canonical,
    check_dialable,
    check_range,
    ports,
    split_range,
)

_WILDCARDS = {"*", "?", "["}  # fnmatch


@dataclass(frozen=True, slots=True)
class TcpRule:
    """Allows one host's ports from ``first_port`` to ``last_port``, inclusive."""

    host: str
    first_port: int
    last_port: int

    def __post_init__(self) -> None:
        check_canonical(self.host, canonical_ip(self.host))
        check_dialable(self.host)
        check_range(self.first_port, self.last_port)

    def __str__(self) -> str:
        return f"tcp:{bracketed(self.host)}:{ports(self.first_port, self.last_port)}"

    def matches(self, target: TargetAddress) -> bool:
        """Whether this rule allows ``target``."""
        return (
            isinstance(target, TcpAddress)
            and target.host == self.host
            and self.first_port <= target.port <= self.last_port
        )


@dataclass(frozen=True, slots=True)
class UnixRule:
    """Allows the socket paths that match ``pattern``, component by component."""

    pattern: str

    def __post_init__(self) -> None:
        check_canonical(self.pattern, canonical_path(self.pattern))

    def __str__(self) -> str:
        return f"unix:{self.pattern}"

    @property
    def directory(self) -> PurePosixPath:
        """The deepest directory of the pattern before any wildcard."""
        *parents, _ = self.pattern.split("/")
        named = takewhile(lambda part: not _WILDCARDS & set(part), parents)
        return PurePosixPath("/", *named)

    def matches(self, target: TargetAddress) -> bool:
        """Whether this rule allows ``target``. Matching is by component, so ``*`` never crosses a slash."""
        if not isinstance(target, UnixAddress):
            return False
        parts, patterns = target.path.split("/"), self.pattern.split("/")
        return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


AllowRule: TypeAlias = TcpRule | UnixRule


@dataclass(frozen=True, slots=True)
class AllowList:
    """The targets that a peer may reach on this host. An empty list allows nothing.

    ``own`` is never allowed: the addresses on which this host's daemon listens, so that there are no loops.
    """

    rules: tuple[AllowRule, ...] = ()
    own: tuple[ListenAddress, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> AllowList:
        """Parse the rules in ``texts``. Raises ValueError for the first invalid one."""
        return cls(tuple(parse_rule(text) for text in texts))

    def allows(self, target: TargetAddress) -> bool:
        """Whether any rule allows ``target`` and it does not lead back to this daemon."""
        return not self.leads_back(target) and any(rule.matches(target) for rule in self.rules)

    def leads_back(self, target: TargetAddress) -> bool:
        """Whether this host's daemon listens on ``target``."""
        return any(_takes(listen, target) for listen in self.own)

    @property
    def own_paths(self) -> list[str]:
        """The paths of the unix sockets in ``own``."""
        return [listen.path for listen in self.own if isinstance(listen, UnixAddress)]


def parse_rule(text: str) -> AllowRule:
    """Parse one entry of an allow list."""
    match text.partition(":"):
        case "tcp", _, rest:
            host, first, last = split_range(rest)
            return TcpRule(canonical_ip(host), first, last)
        case "unix", _, pattern:
            return UnixRule(canonical_path(pattern))
    raise ValueError(f"{text!r} is not an allow rule: use tcp:127.0.0.1:49152-49215 or unix:/run/qemu/*")


def covers(rule: AllowRule, listen: ListenAddress) -> bool:
    """Whether ``rule`` allows any target that ``listen`` accepts."""
    match rule, listen:
        case TcpRule(host, first, last), RedirectAddress(alias, low, high):
            return host == alias and first <= high and low <= last
        case _, (TcpAddress() | UnixAddress()):
            return rule.matches(listen)
    return False


def _takes(listen: ListenAddress, target: TargetAddress) -> bool:
    match listen, target:
        case RedirectAddress(host, first, last), TcpAddress(wanted, port):
            return host == wanted and first <= port <= last
    return listen == target

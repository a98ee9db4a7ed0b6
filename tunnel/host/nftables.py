"""The daemon's own nftables table: redirects port ranges of loopback aliases to our listening sockets.

::

    table ip mtunnel-hosta {
        chain output {
            type nat hook output priority -100; policy accept;
            ip daddr 127.0.1.2 tcp dport 49152-49215 redirect to :1002 comment "hostb"
        }

        chain guard {
            type filter hook output priority 0; policy accept;
            ip daddr 127.0.1.2 meta l4proto tcp reject with tcp reset
        }
    }

The guard runs after the redirect, and so sees what was not redirected: while no daemon runs, and where a
``notrack`` rule prevents translation. It rejects immediately what would otherwise time out (``guard_route``).

Every change is one atomic transaction of ``nft``, and affects no other table.

The kernel must track and translate a redirected connection for as long as it is open, and does so only while
some rule needs that: after the last such rule is removed, the connection is broken. So a table in use is
flushed and filled in one transaction (``repair``); at shutdown a rule without effect replaces the redirects
(``clear``), and only the guard is left when all connections have ended (``close``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from tunnel.errors import UsageError
from tunnel.host import privileges, reserved_ports
from tunnel.net import netlink
from tunnel.net.netlink import attribute, attributes

TIMEOUT = 10.0
"""Timeout of ``nft`` in seconds; usually it takes 20 ms."""

_SBIN = "/usr/sbin:/sbin"  # not on every user's PATH
_OURS = "mtunnel-"
_MOST_NAME = 255
_MOST_COMMENT = 128
_CHAIN, _GUARD = "output", "guard"

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h: messages and attributes
_SUBSYSTEM = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_GENERATION = (_SUBSYSTEM | kind for kind in (1, 4, 7, 16))
_NAME, _CHAIN_NAME, _GENERATION = 1, 3, 1
_PREFIX = struct.Struct("=BBH")  # family, version, resource

Command: TypeAlias = dict[str, Any]


def _is(left: Command, right: object) -> Command:
    return {"match": {"op": "==", "left": left, "right": right}}


_DESTINATION: Command = {"payload": {"protocol": "ip", "field": "daddr"}}
_TRACKED = [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}]


@dataclass(frozen=True, slots=True)
class Redirect:
    """Redirects connections to ``host``, ports ``first_port`` to ``last_port``, to ``port`` of 127.0.0.1.

    ``exclusive``: all other TCP ports of ``host`` are rejected.
    """

    host: str
    first_port: int
    last_port: int
    port: int
    comment: str = ""
    exclusive: bool = True


def unavailable_reason() -> str | None:
    """Return why this process cannot redirect ports; None when it should be able to."""
    if program() is None:
        return "redirect needs the program nft: install the package nftables, or use tcp: or unix:"
    if not privileges.has(privileges.Capability.NET_ADMIN):
        return (
            "redirect needs the capability CAP_NET_ADMIN, which this process does not have:"
            " run it as root, or use tcp: or unix:"
        )
    return reserved_ports.unavailable_reason()


def generation() -> bytes:
    """Return the generation of the host's ruleset, which differs after any change. Raises OSError."""
    answer = netlink.ask(netlink.NETFILTER, _GET_GENERATION, _PREFIX.pack(socket.AF_UNSPEC, 0, 0))
    return dict(attributes((answer or b"")[_PREFIX.size :])).get(_GENERATION, b"")


def guarded_by(tables: Iterable[str]) -> set[str]:
    """Return the addresses that the guards of ``tables``, names of ours, reject. Raises UsageError."""
    return {host for name in tables for host in RedirectTable.named(name).hosts()}


def our_tables() -> set[str]:
    """Return the names of the tables of all mtunnel daemons on this machine. Raises OSError."""
    answers = netlink.dump(netlink.NETFILTER, _GET_TABLE, _PREFIX.pack(socket.AF_INET, 0, 0))
    names = [dict(attributes(each[_PREFIX.size :]))[_NAME].rstrip(b"\0").decode() for each in answers]
    return {name for name in names if name.startswith(_OURS)}


def table_name(host: str) -> str:
    """Return the name of the table of ``host``'s daemon: two daemons on one machine have two tables.

    Every character of a host name is valid in a table name; a name that is too long ends in a hash.
    """
    name = _OURS + host
    if len(name) <= _MOST_NAME:
        return name
    digest = hashlib.sha256(host.encode()).hexdigest()[:16]
    return f"{name[: _MOST_NAME - 17]}-{digest}"


class RedirectTable:
    """The table of one daemon. Methods raise UsageError on failure, and then have changed nothing."""

    def __init__(self, host: str) -> None:
        self.name = table_name(host)

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the table of that name, of any daemon."""
        table = cls("")
        table.name = name
        return table

    def install(self, redirects: Iterable[Redirect]) -> None:
        """Create the table, replacing one left by an earlier process."""
        if problem := unavailable_reason():
            raise UsageError(problem)
        wanted = list(redirects)
        self._apply([*self._without_table(), *self._filled(wanted, wanted)])

    def repair(self, redirects: Iterable[Redirect]) -> None:
        """Restore the table; open connections are not disturbed."""
        wanted = list(redirects)
        try:
            self._apply(self._filled(wanted, wanted))
        except UsageError:  # the existing table cannot be filled
            self.install(wanted)

    def clear(self, redirects: Iterable[Redirect]) -> None:
        """Remove the redirects; redirected connections stay open, and the guard stays."""
        rule = self._rule(_CHAIN, _TRACKED, {"accept": None}, "open connections are still translated")
        self._apply([*self._filled((), redirects), rule])

    def close(self, redirects: Iterable[Redirect]) -> None:
        """Remove everything but the guard."""
        self._apply([*self._without_table(), *self._guarded(redirects)])

    def remove(self) -> None:
        """Delete the table; no error if it does not exist."""
        self._apply(self._without_table())

    def exists(self) -> bool:
        """Return whether the table exists. Raises OSError: the query needs CAP_NET_ADMIN."""
        return self._ask(_GET_TABLE) is not None

    def fingerprint(self) -> bytes:
        """Return the table's rules and hooks as the kernel has them: equal until they are changed.

        Raises OSError.
        """
        parts = [self._ask(_GET_TABLE)]
        parts += [self._ask(_GET_CHAIN, attribute(_CHAIN_NAME, _text(name))) for name in (_CHAIN, _GUARD)]
        if None not in parts:  # listing the rules of a missing table is an error, not an empty list
            parts += netlink.dump(netlink.NETFILTER, _GET_RULE, self._question())
        return b"".join(len(part or b"").to_bytes(4) + (part or b"")[_PREFIX.size :] for part in parts)

    def hosts(self) -> set[str]:
        """Return the addresses that the guard rejects. Raises UsageError when ``nft`` fails."""
        listed = self._nft("-j", "list", "table", "ip", self.name)
        rules = [each["rule"]["expr"] for each in json.loads(listed)["nftables"] if "rule" in each]
        matches = [part["match"] for expressions in rules for part in expressions if "match" in part]
        return {each["right"] for each in matches if each["left"] == _DESTINATION}

    def _ask(self, kind: int, more: bytes = b"") -> bytes | None:
        return netlink.ask(netlink.NETFILTER, kind, self._question() + more)

    def _question(self) -> bytes:
        return _PREFIX.pack(socket.AF_INET, 0, 0) + attribute(_NAME, _text(self.name))

    def _without_table(self) -> list[Command]:
        table = {"table": {"family": "ip", "name": self.name}}
        return [{"add": table}, {"delete": table}]  # deleting a missing table would be an error

    def _filled(self, redirects: Iterable[Redirect], guarded: Iterable[Redirect]) -> list[Command]:
        rules = map(self._redirect, redirects)
        return [*self._guarded(guarded), *self._chain(_CHAIN, "nat", -100), *rules]

    def _guarded(self, redirects: Iterable[Redirect]) -> list[Command]:
        table = {"add": {"table": {"family": "ip", "name": self.name}}}
        return [table, *self._chain(_GUARD, "filter", 0), *self._rejections(redirects)]

    def _chain(self, name: str, kind: str, priority: int) -> list[Command]:
        """Create a chain, or flush the existing one."""
        chain = {"family": "ip", "table": self.name, "name": name}
        hook = {"type": kind, "hook": "output", "prio": priority, "policy": "accept"}
        return [{"add": {"chain": chain | hook}}, {"flush": {"chain": chain}}]

    def _rejections(self, redirects: Iterable[Redirect]) -> Iterator[Command]:
        wanted = list(redirects)
        reset = {"reject": {"type": "tcp reset"}}
        for host in dict.fromkeys(each.host for each in wanted if each.exclusive):
            conditions = [_is(_DESTINATION, host), _is({"meta": {"key": "l4proto"}}, "tcp")]
            yield self._rule(_GUARD, conditions, reset)
        for each in wanted:
            if not each.exclusive:
                yield self._rule(_GUARD, _conditions(each), reset)

    def _redirect(self, redirect: Redirect) -> Command:
        verdict = {"redirect": {"port": redirect.port}}
        return self._rule(_CHAIN, _conditions(redirect), verdict, redirect.comment)

    def _rule(self, chain: str, conditions: list[Command], verdict: Command, comment: str = "") -> Command:
        rule: Command = {"family": "ip", "table": self.name, "chain": chain, "expr": [*conditions, verdict]}
        return {"add": {"rule": rule | ({"comment": comment[:_MOST_COMMENT]} if comment else {})}}

    def _apply(self, commands: list[Command]) -> None:
        self._nft("-j", "-f", "-", said=json.dumps({"nftables": commands}))

    def _nft(self, *words: str, said: str = "") -> str:
        """Run ``nft`` and return its output. Raises UsageError when it fails."""
        found = program()
        if found is None:
            raise UsageError(f"cannot change the nftables table {self.name}: nft is not installed")
        try:
            ended = subprocess.run(
                [found, *words],
                input=said,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
                env={"LC_ALL": "C", "PATH": _path()},
            )
        except subprocess.TimeoutExpired:
            raise UsageError(self._failed(f"timed out after {TIMEOUT:g} s waiting for nft")) from None
        except OSError as error:
            raise UsageError(self._failed(f"{found}: {error.strerror}")) from None
        if ended.returncode != 0:
            reasons = ended.stderr.strip().splitlines() or [f"nft exited with status {ended.returncode}"]
            raise UsageError(self._failed(reasons[0].rstrip(".; ")))
        return ended.stdout

    def _failed(self, why: str) -> str:
        return (
            f"cannot change the nftables table {self.name}: {why}"
            " (redirect needs CAP_NET_ADMIN and a kernel with nftables and NAT)"
        )


def _conditions(redirect: Redirect) -> list[Command]:
    first, last = redirect.first_port, redirect.last_port
    ports = first if first == last else {"range": [first, last]}
    return [
        _is(_DESTINATION, redirect.host),
        _is({"payload": {"protocol": "tcp", "field": "dport"}}, ports),
    ]


def _text(name: str) -> bytes:
    """Encode a name for the kernel."""
    return name.encode() + b"\0"


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def program() -> str | None:
    """Return the path of ``nft``; None when it is not installed."""
    return shutil.which("nft", path=_path())

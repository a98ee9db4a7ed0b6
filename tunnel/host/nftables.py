"""The daemon's own table of nftables: it leads port ranges of loopback aliases to our listening sockets.

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

The guard comes after the redirect, and so sees what was not redirected: while no daemon runs, and what a rule
with ``notrack`` keeps from being translated. It refuses at once what nobody could answer anyway (``guard``).

Every change is one transaction of ``nft``: it happens as a whole or not at all, and names no other table.

A connection that was redirected needs the kernel to track and translate it for as long as it lives, and the
kernel does so only while some rule wants it: when ours was the last, the connection is dead. So a table in
use is emptied and filled in one transaction (``repair``); at the end a rule that leads nobody anywhere takes
the place of the redirects (``clear``), and only the guard is left when all connections are over (``close``).
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
"""Seconds that ``nft`` may take; usually it takes 20 ms."""

_SBIN = "/usr/sbin:/sbin"  # not on the PATH of every user
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
    """Leads connections to ``host``, ports ``first_port`` to ``last_port``, to ``port`` of 127.0.0.1.

    ``exclusive``: nothing else may be reached at ``host``, whatever the port.
    """

    host: str
    first_port: int
    last_port: int
    port: int
    comment: str = ""
    exclusive: bool = True


def unavailable_reason() -> str | None:
    """Say why this process cannot redirect ports. None when it should be able to."""
    if program() is None:
        return "redirect needs the program nft: install the package nftables, or use tcp: or unix:"
    if not privileges.has(privileges.Capability.NET_ADMIN):
        return (
            "redirect needs the capability CAP_NET_ADMIN, which this process does not have:"
            " run it as root, or use tcp: or unix:"
        )
    return reserved_ports.unavailable_reason()


def generation() -> bytes:
    """A number that every change of the host's nftables changes, whoever makes it. Raises OSError."""
    answer = netlink.ask(netlink.NETFILTER, _GET_GENERATION, _PREFIX.pack(socket.AF_UNSPEC, 0, 0))
    return dict(attributes((answer or b"")[_PREFIX.size :])).get(_GENERATION, b"")


def guarded_by(tables: Iterable[str]) -> set[str]:
    """The addresses that the guards of ``tables``, which are ours by name, reject. Raises UsageError."""
    return {host for name in tables for host in RedirectTable.named(name).hosts()}


def our_tables() -> set[str]:
    """The names of the tables of all daemons on this machine. Raises OSError."""
    answers = netlink.dump(netlink.NETFILTER, _GET_TABLE, _PREFIX.pack(socket.AF_INET, 0, 0))
    names = [dict(attributes(each[_PREFIX.size :]))[_NAME].rstrip(b"\0").decode() for each in answers]
    return {name for name in names if name.startswith(_OURS)}


def table_name(host: str) -> str:
    """Return the table's name for the daemon of ``host``: two daemons on one machine have two.

    Whatever a host's name may contain may stand in a table's; but a name may be too long for that.
    """
    name = _OURS + host
    if len(name) <= _MOST_NAME:
        return name
    digest = hashlib.sha256(host.encode()).hexdigest()[:16]
    return f"{name[: _MOST_NAME - 17]}-{digest}"


class RedirectTable:
    """The table of one daemon. Each method raises UsageError when it fails, and then has changed nothing."""

    def __init__(self, host: str) -> None:
        self.name = table_name(host)

    @classmethod
    def named(cls, name: str) -> Self:
        """The table of that name, whosever it is."""
        table = cls("")
        table.name = name
        return table

    def install(self, redirects: Iterable[Redirect]) -> None:
        """Make the table, in place of what a predecessor left."""
        if problem := unavailable_reason():
            raise UsageError(problem)
        wanted = list(redirects)
        self._apply([*self._without_table(), *self._filled(wanted, wanted)])

    def repair(self, redirects: Iterable[Redirect]) -> None:
        """Put the table right, or back in its place; connections that run are not disturbed."""
        wanted = list(redirects)
        try:
            self._apply(self._filled(wanted, wanted))
        except UsageError:  # what stands in its place cannot be filled
            self.install(wanted)

    def clear(self, redirects: Iterable[Redirect]) -> None:
        """Redirect nobody any more; who was redirected stays connected, and the guard stays."""
        rule = self._rule(_CHAIN, _TRACKED, {"accept": None}, "connections that run are still translated")
        self._apply([*self._filled((), redirects), rule])

    def close(self, redirects: Iterable[Redirect]) -> None:
        """Leave nothing but the guard."""
        self._apply([*self._without_table(), *self._guarded(redirects)])

    def remove(self) -> None:
        """Take the table away; no error if somebody did so already."""
        self._apply(self._without_table())

    def exists(self) -> bool:
        """Whether there is a table of this name. Raises OSError: asking takes CAP_NET_ADMIN."""
        return self._ask(_GET_TABLE) is not None

    def fingerprint(self) -> bytes:
        """The table's rules and hooks as the kernel has them: equal for as long as nobody changes them.

        Raises OSError.
        """
        parts = [self._ask(_GET_TABLE)]
        parts += [self._ask(_GET_CHAIN, attribute(_CHAIN_NAME, _text(name))) for name in (_CHAIN, _GUARD)]
        if (
            None not in parts
        ):  # the kernel has no rules of a table that is not there: an error, not an empty list
            parts += netlink.dump(netlink.NETFILTER, _GET_RULE, self._question())
        return b"".join(len(part or b"").to_bytes(4) + (part or b"")[_PREFIX.size :] for part in parts)

    def hosts(self) -> set[str]:
        """The addresses that the guard rejects. Raises UsageError when ``nft`` does not tell."""
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
        return [{"add": table}, {"delete": table}]  # to delete what is not there would be an error

    def _filled(self, redirects: Iterable[Redirect], guarded: Iterable[Redirect]) -> list[Command]:
        rules = map(self._redirect, redirects)
        return [*self._guarded(guarded), *self._chain(_CHAIN, "nat", -100), *rules]

    def _guarded(self, redirects: Iterable[Redirect]) -> list[Command]:
        table = {"add": {"table": {"family": "ip", "name": self.name}}}
        return [table, *self._chain(_GUARD, "filter", 0), *self._rejections(redirects)]

    def _chain(self, name: str, kind: str, priority: int) -> list[Command]:
        """Make a chain, or empty the one that is there."""
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
        """Run ``nft``; what it printed. Raises UsageError when it fails."""
        found = program()
        if found is None:
            raise UsageError(f"cannot change the nftables table {self.name}: the program nft is gone")
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
            raise UsageError(self._failed(f"nft did not end within {TIMEOUT:g} seconds")) from None
        except OSError as error:
            raise UsageError(self._failed(f"{found}: {error.strerror}")) from None
        if ended.returncode != 0:
            reasons = ended.stderr.strip().splitlines() or [f"nft ended with {ended.returncode}"]
            raise UsageError(self._failed(reasons[0].rstrip(".; ")))
        return ended.stdout

    def _failed(self, why: str) -> str:
        return (
            f"cannot change the nftables table {self.name}: {why}"
            " (redirect needs CAP_NET_ADMIN and a kernel that has nftables with nat)"
        )


def _conditions(redirect: Redirect) -> list[Command]:
    first, last = redirect.first_port, redirect.last_port
    ports = first if first == last else {"range": [first, last]}
    return [
        _is(_DESTINATION, redirect.host),
        _is({"payload": {"protocol": "tcp", "field": "dport"}}, ports),
    ]


def _text(name: str) -> bytes:
    """A name as the kernel reads it."""
    return name.encode() + b"\0"


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def program() -> str | None:
    """Return the path of ``nft``, None where it is not installed."""
    return shutil.which("nft", path=_path())

"""The daemon's own table of nftables: it leads port ranges of loopback aliases to our listening sockets.

::

    table ip mtunnel-hosta {
        chain output {
            type nat hook output priority -100; policy accept;
            ip daddr 127.0.1.2 tcp dport 49152-49215 redirect to :40121 comment "hostb"
        }
    }

Every change is one transaction of ``nft``: it happens as a whole or not at all, and names no other table.

A connection that was redirected needs the kernel to track and translate it for as long as it lives, and the
kernel does so only while some rule wants it: when ours was the last, the connection is dead. So a table in
use is emptied and filled in one transaction (``repair``); at the end a rule that leads nobody anywhere takes
the place of the redirects (``clear``), and the table goes when all connections are over (``remove``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tunnel.errors import UsageError

TIMEOUT = 10.0
"""Seconds that ``nft`` may take; usually it takes 20 ms."""

CAP_NET_ADMIN = 12  # linux/capability.h

_PROCESS_STATUS = Path("/proc/self/status")
_SBIN = "/usr/sbin:/sbin"  # not on the PATH of every user
_MOST_NAME = 255
_MOST_COMMENT = 128
_CHAIN = "output"

Command: TypeAlias = dict[str, Any]


def _is(left: Command, right: object) -> Command:
    return {"match": {"op": "==", "left": left, "right": right}}


_TRACKED = [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}]


@dataclass(frozen=True, slots=True)
class Redirect:
    """Leads connections to ``host``, ports ``first_port`` to ``last_port``, to ``port`` of 127.0.0.1."""

    host: str
    first_port: int
    last_port: int
    port: int
    comment: str = ""


def obstacle() -> str | None:
    """Say why this process cannot redirect ports. None when it should be able to."""
    if _nft() is None:
        return "redirect needs the program nft: install the package nftables, or use tcp: or unix:"
    if not _has_net_admin():
        return (
            "redirect needs the capability CAP_NET_ADMIN, which this process does not have:"
            " run it as root, or use tcp: or unix:"
        )
    return None


def table_name(host: str) -> str:
    """Return the table's name for the daemon of ``host``: two daemons on one machine have two.

    Whatever a host's name may contain may stand in a table's; but a name may be too long for that.
    """
    name = f"mtunnel-{host}"
    if len(name) <= _MOST_NAME:
        return name
    digest = hashlib.sha256(host.encode()).hexdigest()[:16]
    return f"{name[: _MOST_NAME - 17]}-{digest}"


class RedirectTable:
    """The table of one daemon. Each method raises UsageError when it fails, and then has changed nothing."""

    def __init__(self, host: str) -> None:
        self.name = table_name(host)

    def install(self, redirects: Iterable[Redirect]) -> None:
        """Make the table, in place of what a predecessor left."""
        if problem := obstacle():
            raise UsageError(problem)
        self._apply([*self._without_table(), *self._filled(redirects)])

    def repair(self, redirects: Iterable[Redirect]) -> None:
        """Put the table right, or back in its place; connections that run are not disturbed."""
        wanted = list(redirects)
        try:
            self._apply(self._filled(wanted))
        except UsageError:  # what stands in its place cannot be filled
            self.install(wanted)

    def clear(self) -> None:
        """Redirect nobody any more; who was redirected stays connected."""
        rule = self._rule(_TRACKED, {"accept": None}, "connections that run are still translated")
        self._apply([*self._filled(()), rule])

    def remove(self) -> None:
        """Take the table away; no error if somebody did so already."""
        self._apply(self._without_table())

    def _without_table(self) -> list[Command]:
        table = {"table": {"family": "ip", "name": self.name}}
        return [{"add": table}, {"delete": table}]  # to delete what is not there would be an error

    def _filled(self, redirects: Iterable[Redirect]) -> list[Command]:
        chain = {"family": "ip", "table": self.name, "name": _CHAIN}
        hook = {"type": "nat", "hook": "output", "prio": -100, "policy": "accept"}
        return [
            {"add": {"table": {"family": "ip", "name": self.name}}},
            {"add": {"chain": chain | hook}},
            {"flush": {"chain": chain}},
            *map(self._redirect, redirects),
        ]

    def _redirect(self, redirect: Redirect) -> Command:
        first, last = redirect.first_port, redirect.last_port
        ports = first if first == last else {"range": [first, last]}
        conditions = [
            _is({"payload": {"protocol": "ip", "field": "daddr"}}, redirect.host),
            _is({"payload": {"protocol": "tcp", "field": "dport"}}, ports),
        ]
        return self._rule(conditions, {"redirect": {"port": redirect.port}}, redirect.comment)

    def _rule(self, conditions: list[Command], verdict: Command, comment: str) -> Command:
        rule: Command = {"family": "ip", "table": self.name, "chain": _CHAIN, "expr": [*conditions, verdict]}
        return {"add": {"rule": rule | ({"comment": comment[:_MOST_COMMENT]} if comment else {})}}

    def _apply(self, commands: list[Command]) -> None:
        program = _nft()
        if program is None:
            raise UsageError(f"cannot change the nftables table {self.name}: the program nft is gone")
        try:
            ended = subprocess.run(
                [program, "-j", "-f", "-"],
                input=json.dumps({"nftables": commands}),
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
            raise UsageError(self._failed(f"{program}: {error.strerror}")) from None
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines() or [f"nft ended with {ended.returncode}"]
            raise UsageError(self._failed(said[0].rstrip(".; ")))

    def _failed(self, why: str) -> str:
        return (
            f"cannot change the nftables table {self.name}: {why}"
            " (redirect needs CAP_NET_ADMIN and a kernel that has nftables with nat)"
        )


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def _nft() -> str | None:
    return shutil.which("nft", path=_path())


def _has_net_admin() -> bool:
    """Whether the capability is effective; where that cannot be read, ``nft`` will have to tell."""
    try:
        lines = _PROCESS_STATUS.read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")]
    return not masks or bool(masks[0] >> CAP_NET_ADMIN & 1)

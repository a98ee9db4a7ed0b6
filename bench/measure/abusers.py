"""The abusers of ``bench abuse``: strangers, local users and a hostile peer, with goals for bulk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tunnel.bench.measure.callers import Says
from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.exposed import ADDRESS_C, Exposed
from tunnel.bench.measure.hostile import Kind
from tunnel.bench.measure.relay_commands import Command, mtunnel_address
from tunnel.bench.measure.site import ADDRESS_A

STRANGE_ADDRESS = "127.0.0.9"
NOBODY = 65534
RESUMED_WITHIN = 5.0
"""Seconds within which a cut lane must be replaced, also under abuse."""


@dataclass(frozen=True)
class Abuser:
    """One kind of abuse. ``goal``: throughput of other bulk under it, as a fraction of that without.

    ``command`` runs it, and ``plain`` runs the same against a plain listener, to separate the cost for the
    machine from that for the daemon; None where not applicable.
    """

    name: str
    group: str
    what: str
    goal: float
    command: Callable[[Exposed], Command]
    plain: Callable[[Exposed], Command] | None = None


def _module(name: str, *arguments: object) -> Command:
    return [sys.executable, "-m", f"tunnel.bench.measure.{name}", *map(str, arguments)]


def _call(endpoint: ProgramAddress, *options: str) -> Command:
    return _module("callers", "call", endpoint, *options)


def _stranger(says: Says, source: str, name: str, where: str) -> Abuser:
    options = (f"--says={says}", f"--source={source}")
    return Abuser(
        name=name,
        group="strangers",
        what=f"10,000 connections a minute to the port, {says}, {where}",
        goal=0.9,
        command=lambda exposed: _call(exposed.site.link, *options),
        plain=lambda exposed: _call(exposed.plain, *options),
    )


def _user(name: str, what: str, where: Callable[[Exposed], ProgramAddress], *options: str) -> Abuser:
    def plain(exposed: Exposed) -> Command:
        is_unix = where(exposed).is_unix
        return _call(exposed.plain_unix if is_unix else exposed.plain, f"--uid={NOBODY}", *options)

    return Abuser(
        name=name,
        group="users",
        what=what,
        goal=0.9,
        command=lambda exposed: _call(where(exposed), f"--uid={NOBODY}", *options),
        plain=plain,
    )


def hostile_command(kind: Kind, exposed: Exposed) -> Command:
    """Return the command that runs the hostile peer."""
    return _module(
        "hostile",
        kind,
        exposed.site.link,
        f"--source={ADDRESS_C}",
        f"--target={mtunnel_address(exposed.held)}",
        f"--ca={exposed.site.ca}",
        f"--cert={exposed.pair_c.cert}",
        f"--key={exposed.pair_c.key}",
    )


def _peer(kind: Kind) -> Abuser:
    command = partial(hostile_command, kind)
    return Abuser(f"peer-{kind}", "peers", f"a peer that floods its link: {kind}", 0.8, command)


_ENDLESS = "--per-second=0"

ABUSERS: tuple[Abuser, ...] = (
    *(_stranger(says, STRANGE_ADDRESS, says, "from one address") for says in Says),
    *(_stranger(says, ADDRESS_A, f"{says}-as-peer", "from the address of the other host") for says in Says),
    _stranger(Says.HELLO, ADDRESS_C, "hello-as-absent", "from the address of a third host that is down"),
    _user("user-tcp", "10,000 a minute by a user without permission, tcp", lambda e: e.forbidden),
    _user("user-unix", "10,000 a minute by a user without permission, unix", lambda e: e.forbidden_unix),
    _user("user-permitted", "10,000 a minute by a permitted user, tcp", lambda e: e.permitted),
    _user(
        "user-tcp-endless", "unlimited, by a user without permission, tcp", lambda e: e.forbidden, _ENDLESS
    ),
    _user(
        "user-unix-endless",
        "unlimited, by a user without permission, unix",
        lambda e: e.forbidden_unix,
        _ENDLESS,
    ),
    *(_peer(kind) for kind in Kind if kind is not Kind.SPARSE),
)

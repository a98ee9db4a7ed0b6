"""``mtunnel guard``: keeps other programs off the addresses of redirect ingresses while no daemon runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tunnel.cli import options
from tunnel.daemon import aliases
from tunnel.daemon.config import load


def guard(
    config: options.Config = options.DEFAULT_CONFIG,
    remove: Annotated[bool, typer.Option("--remove", help="Take the guard away, after the daemon.")] = False,
) -> None:
    """Guard the addresses of redirect: ingresses, as the daemon does from its first start on: run it at boot.

    Until then such an address is one like any other of 127.0.0.0/8, and any program of this host may answer.
    """
    checked = load(config)
    if remove:
        aliases.take_away(checked)
        return
    guarded = aliases.put_in_place(checked)
    typer.echo(f"guarded: {', '.join(guarded)}" if guarded else "there is nothing to guard")

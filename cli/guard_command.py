"""``mtunnel guard``: keep other programs off the addresses of redirect ingresses while no daemon runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tunnel.cli import options
from tunnel.daemon import aliases
from tunnel.daemon.config import load


def guard(
    config: options.Config = options.DEFAULT_CONFIG,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the guard, after stopping the daemon.")
    ] = False,
) -> None:
    """Guard the addresses of redirect: ingresses, as the daemon does once started: run this at boot.

    Until then, any program on this host can accept connections to such an address, as to all of 127.0.0.0/8.
    """
    checked = load(config)
    if remove:
        aliases.take_away(checked)
        return
    guarded = aliases.put_in_place(checked)
    typer.echo(f"guarded: {', '.join(guarded)}" if guarded else "nothing to guard")

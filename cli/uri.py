"""``mtunnel uri``: print commands for virsh, libvirt-python, Nova and QEMU that migrate guests to a peer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated

import typer

from tunnel.cli import options
from tunnel.cli.snippets import Snippet, recipes
from tunnel.daemon.config import load
from tunnel.names import folded

_DESTURI_HELP = "libvirt URI of the peer, if not through the tunnel."


def uri(
    peer: Annotated[str, typer.Argument(help="Name of a [[peer]].")],
    guest: Annotated[str | None, typer.Argument(help="Guest to migrate.", show_default=False)] = None,
    config: options.Config = options.DEFAULT_CONFIG,
    desturi: Annotated[str | None, typer.Option(metavar="URI", help=_DESTURI_HELP)] = None,
    via: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ingress to use, if there are several.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print commands to migrate guests to a peer with virsh, libvirt-python, Nova or QEMU.

    Commands that the configuration does not allow are replaced by the reason.
    """
    found = recipes(load(config), folded(peer), guest, desturi, via)
    if as_json:
        facts = {
            "peer": folded(peer),
            "guest": guest,
            "recipes": [dataclasses.asdict(each) for each in found],
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        typer.echo("\n".join(describe(found)))


def describe(found: Sequence[Snippet]) -> Iterator[str]:
    """Yield the recipes as text, one section per program."""
    for number, (program, group) in enumerate(groupby(found, lambda recipe: recipe.program)):
        if number:
            yield ""
        yield f"# {program}"
        for recipe in group:
            yield from _describe(recipe)


def _describe(recipe: Snippet) -> Iterator[str]:
    name = "" if recipe.name == "all" else f"{recipe.name}: "
    if recipe.reason:
        yield f"# {name}not available: {recipe.reason}"
        return
    if recipe.name != "all":
        yield f"# {recipe.name}{f' ({recipe.place})' if recipe.place else ''}"
    yield from recipe.lines

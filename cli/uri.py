"""``mtunnel uri``: the lines for virsh, libvirt-python, Nova and QEMU that lead to a peer as configured."""

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

_DESTURI_HELP = "The peer's libvirt, if the tunnel does not lead there."


def uri(
    peer: Annotated[str, typer.Argument(help="A [[peer]] of the configuration.")],
    guest: Annotated[str | None, typer.Argument(help="The guest to move.", show_default=False)] = None,
    config: options.Config = options.DEFAULT_CONFIG,
    desturi: Annotated[str | None, typer.Option(metavar="URI", help=_DESTURI_HELP)] = None,
    via: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Which ingress, if there are several.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Print copy-and-paste lines that move guests to a peer, for virsh, libvirt-python, Nova and QEMU.

    What the configuration does not allow is left out, with the reason.
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
    """The recipes for people: a part for each program."""
    for number, (program, group) in enumerate(groupby(found, lambda recipe: recipe.program)):
        if number:
            yield ""
        yield f"# {program}"
        for recipe in group:
            yield from _describe(recipe)


def _describe(recipe: Snippet) -> Iterator[str]:
    name = "" if recipe.name == "all" else f"{recipe.name}: "
    if recipe.reason:
        yield f"# {name}not as configured: {recipe.reason}"
        return
    if recipe.name != "all":
        yield f"# {recipe.name}{f' ({recipe.place})' if recipe.place else ''}"
    yield from recipe.lines

"""How values on the command line are read, where a file's way of writing them is not enough."""

from __future__ import annotations

import typer

from tunnel.daemon.units import parse_duration, parse_size


def rate(value: str | int) -> int:
    """Bytes a second, ``/s`` may be left out. Raises typer.BadParameter."""
    try:
        return parse_size(value.removesuffix("/s") if isinstance(value, str) else value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def duration(value: str | float) -> float:
    """Seconds, with a unit. Raises typer.BadParameter."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

"""Options that several commands share, and how values on the command line are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunnel.units import parse_duration, parse_size

DEFAULT_CONFIG = Path("/etc/mtunnel/mtunnel.toml")

Config = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration of this host.")
]
"""The option that every command has which reads the configuration; its default is ``DEFAULT_CONFIG``."""


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

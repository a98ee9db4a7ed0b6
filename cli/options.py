"""Shared command-line options, and parsers for option values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunnel.units import parse_duration, parse_size

DEFAULT_CONFIG = Path("/etc/mtunnel/mtunnel.toml")

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file.")]
"""The ``--config`` option of every command that reads the configuration; default: ``DEFAULT_CONFIG``."""


def rate(value: str | int) -> int:
    """Parse a rate as bytes per second; ``/s`` is optional. Raises typer.BadParameter."""
    try:
        return parse_size(value.removesuffix("/s") if isinstance(value, str) else value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def duration(value: str | float) -> float:
    """Parse a duration with a unit as seconds. Raises typer.BadParameter."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

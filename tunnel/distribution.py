"""The installed package: its name for pip, its version, and how to install its extras.

On the public index the names ``mtunnel`` and ``tunnel`` belong to other projects' packages. So no message
suggests to install by such a name: it names the directory that this installation was made from.
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "mtunnel-migration"
"""The name for ``pip``. The command is ``mtunnel``, the import name ``tunnel``."""


def version() -> str:
    """Return the installed version."""
    return importlib.metadata.version(NAME)


def install_command(extra: str) -> str:
    """Return the shell command that adds ``extra`` (a key of pyproject's optional-dependencies) here."""
    checkout = _checkout()
    source = f"{checkout or '.'}[{extra}]"
    command = shlex.join([sys.executable, "-m", "pip", "install", source])
    return command if checkout else f"{command}   (in a checkout of mtunnel)"


def _checkout() -> Path | None:
    """Return the directory that pip installed from (PEP 610, direct_url.json), if it is still there."""
    record = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    location = urlsplit(json.loads(record)["url"] if record else "")
    path = Path(unquote(location.path))
    return path if location.scheme == "file" and (path / "pyproject.toml").is_file() else None

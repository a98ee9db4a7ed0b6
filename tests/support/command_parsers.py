"""Parse command lines with the parsers of the programs themselves, without running anything."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from tests.support.shown_commands import Shown, WrongCommandError
from tests.support.virsh_parser import parse_virsh
from tunnel.bench.app import app as bench
from tunnel.bench.lab.lab_app import app as lab
from tunnel.bench.measure import beside, contestants, guest_options
from tunnel.cli.main import app as mtunnel
from tunnel.errors import UsageError

ROOT = Path(__file__).parents[2]
PEERS = {"hostb", "PEER"}
"""The names of the peer in documents."""

_errors: Any = importlib.import_module(typer.BadParameter.__module__)  # click's, or typer's copy of them
_INCOMPLETE = (_errors.MissingParameter, _errors.BadOptionUsage)
_DISPATCH = (ROOT / "run").read_text().split("\nverb=")[1]
_VERBS = frozenset(re.findall(r"^    (\w+)(?: \| -h \| --help)?\) ", _DISPATCH, re.MULTILINE))


def path_of(shown: Shown) -> str:
    """Return the program and its subcommands, such as "./run bench relay", after checking all arguments.

    Raises WrongCommandError. Missing arguments are no error where the command is not shown as a whole.
    """
    program, *rest = shown.argv
    if program == "virsh":
        return parse_virsh(rest, whole=shown.whole)
    if program == "mtunnel":
        return _click("mtunnel", mtunnel, rest, whole=shown.whole)
    verb, *rest = rest
    if verb not in _VERBS:
        raise WrongCommandError(f"there is no verb {verb!r}")
    if verb in ("bench", "lab"):
        return _click(f"./run {verb}", {"bench": bench, "lab": lab}[verb], rest, whole=shown.whole)
    if verb == "demo":
        _click("mtunnel", mtunnel, [verb, *rest], whole=shown.whole)
    lost = [word for word in rest if word.startswith("tests/") and not (ROOT / word).exists()]
    if lost:
        raise WrongCommandError(f"there is no {lost[0]}")
    return f"./run {verb}"


def _click(path: str, app: typer.Typer, rest: Sequence[str], *, whole: bool) -> str:
    command: Any = typer.main.get_command(app)
    try:
        while hasattr(command, "list_commands"):
            if not rest and not whole:
                return path
            group = command.context_class(command, info_name=path)
            _name, command, rest = command.resolve_command(group, list(rest))
            path = f"{path} {_name}"
        values = command.make_context(path, list(rest)).params
        _check_peer(path, values)
        _check_only(path, values)
    except _INCOMPLETE as error:
        if whole:
            raise WrongCommandError(error.format_message()) from error
    except _errors.ClickException as error:
        raise WrongCommandError(error.format_message()) from error
    except UsageError as error:
        raise WrongCommandError(str(error)) from error
    return path


def _check_peer(path: str, values: Mapping[str, Any]) -> None:
    """Check the order of GUEST and PEER, which are names like any other to the parser."""
    if path == "mtunnel uri":
        peer = values["peer"]
    elif path == "mtunnel migrate":
        peer = values["names"][-1]
    else:
        return
    if peer not in PEERS:
        raise WrongCommandError(f"{peer} is in the place of the peer")


def _check_only(path: str, values: Mapping[str, Any]) -> None:
    """Check what a benchmark is to be limited to. Raises UsageError."""
    names = [name for name in values.get("only", "").split(",") if name]
    if path == "./run bench migrate":
        guest_options.parse(memory=values["memory"], modes=values["only"])
    elif path == "./run bench abuse":
        beside.choose(names)
    elif names:
        contestants.choose(names)

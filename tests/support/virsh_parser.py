"""Check command lines of virsh against its help, without running them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tests.support.shown_commands import WrongCommandError

_GLOBAL = {"-c", "-k", "-K", "--connect", "--keepalive-interval", "--keepalive-count"}
"""Options before virsh's command; each has a value."""


@dataclass(frozen=True, slots=True)
class _Virsh:
    """The options of one command of virsh, without and with a value, and the number of its operands."""

    flags: frozenset[str]
    valued: frozenset[str]
    required: int


@cache
def _virsh_command(name: str) -> _Virsh:
    done = subprocess.run(["virsh", "help", name], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise WrongCommandError(done.stderr.strip())
    options = re.findall(r"^    (\[?)(--[\w-]+)\]?( <\w+>)?", done.stdout, re.MULTILINE)
    return _Virsh(
        frozenset(name for _, name, value in options if not value),
        frozenset(name for _, name, value in options if value),
        sum(bool(bracket) for bracket, _, _ in options),
    )


def parse_virsh(rest: Sequence[str], *, whole: bool) -> str:
    """Return "virsh" and its command, after checking the arguments ``rest``. Raises WrongCommandError."""
    words = list(rest)
    while words and words[0] in _GLOBAL:
        del words[:2]
    if not words and not whole:
        return "virsh"
    name, *words = words
    command = _virsh_command(name)
    operands = _operands(name, command, words)
    if whole and len(operands) < command.required:
        raise WrongCommandError(f"virsh {name} needs {command.required} arguments")
    if name == "migrate" and len(operands) > 1 and not re.match(r"\$|qemu", operands[1]):
        raise WrongCommandError(f"{operands[1]} is in the place of the destination's URI")
    return f"virsh {name}"


def _operands(name: str, command: _Virsh, words: Sequence[str]) -> list[str]:
    operands = []
    rest = iter(words)
    for word in rest:
        option, equals, _value = word.partition("=")
        if not word.startswith("--"):
            operands.append(word)
        elif option in command.valued:
            _ = equals or next(rest, None)
        elif word not in command.flags:
            raise WrongCommandError(f"virsh {name} has no option {word}")
    return operands

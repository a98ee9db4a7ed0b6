"""The exception tree: exit codes, and that the picture in the module docstring is correct."""

from __future__ import annotations

import re

import pytest

from tunnel import errors
from tunnel.errors import ConfigError, RefusedError, TunnelError, WireError
from tunnel.wire.codes import Code

CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, TunnelError)
}


def _drawn() -> dict[str, tuple[str, int | None]]:
    """Parse the picture: each name with its parent and, where one is drawn, its exit code."""
    tree = dict[str, tuple[str, int | None]]()
    parents = list[tuple[int, str]]()
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.match(r"    ([ │├└─]*)([A-Z]\w+) ", line):
            branch, name = drawn.groups()
            parents = [(depth, parent) for depth, parent in parents if depth < len(branch)]
            code = re.search(r"exit (\d)$", line)
            tree[name] = (parents[-1][1] if parents else "Exception", int(code[1]) if code else None)
            parents.append((len(branch), name))
    return tree


def test_the_picture_shows_every_error_below_its_parent() -> None:
    assert {name: parent for name, (parent, _) in _drawn().items()} == {
        name: found.__bases__[0].__name__ for name, found in CLASSES.items()
    }


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, (_, code) in _drawn().items() if code])
def test_the_picture_shows_the_exit_code(name: str, code: int) -> None:
    assert CLASSES[name].exit_code == code


def test_no_error_exits_with_0() -> None:
    assert {found.exit_code for found in CLASSES.values()} == {1, 2, 3, 4}


def test_a_configuration_error_names_every_mistake_with_its_key() -> None:
    error = ConfigError("a.toml", [("host.name", "is missing"), ("", "peers and ingress disagree")])
    assert str(error) == "a.toml: 2 problems\n  host.name: is missing\n  peers and ingress disagree"
    assert error.problems == (("host.name", "is missing"), ("", "peers and ingress disagree"))


def test_one_mistake_is_not_called_problems() -> None:
    assert str(ConfigError("a.toml", [("tls.ca", "is missing")])).startswith("a.toml: 1 problem\n")


def test_a_wire_error_carries_its_code_for_the_peer_and_its_name_for_people() -> None:
    error = WireError(Code.FLOW_CONTROL, "stream 3 sent 9 bytes too many")
    assert error.code is Code.FLOW_CONTROL
    assert str(error) == "stream 3 sent 9 bytes too many [FLOW_CONTROL]"


def test_a_refusal_may_come_from_our_own_policy_without_a_code() -> None:
    assert RefusedError("uid 1000 may not use this ingress").code is None
    assert RefusedError("not in the egress list", Code.FLOW_CONTROL).code is Code.FLOW_CONTROL

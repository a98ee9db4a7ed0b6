"""The structure of the source is part of its contract: imports point downward, every module has its tests.

The layers stand in ``MAY_IMPORT``, lowest first. ``certs`` and ``bench`` stand beside the daemon's path:
nothing on that path knows them. The wire is sans-IO: what it may not import are the doors to sockets, clocks
and chance.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "errors": set[str](),
    "wire": {"errors"},
    "transport": {"errors", "wire"},
    "relay": {"errors", "wire", "transport"},
    "virt": {"errors", "wire", "transport"},
    "daemon": {"errors", "wire", "transport", "relay", "virt"},
    "certs": {"errors"},
    "bench": {"errors", "wire", "transport", "relay", "virt", "daemon", "certs"},
    "cli": {"errors", "wire", "transport", "relay", "virt", "daemon", "certs", "bench"},
}
# Only to annotate: a module that is never imported at run time cannot pull its layer in.
MAY_ANNOTATE_WITH = {"tunnel.errors": {"tunnel.wire.codes"}}

NOT_SANS_IO = {
    *("asyncio", "uvloop", "threading", "multiprocessing", "subprocess", "signal"),
    *("os", "pathlib", "socket", "select", "selectors", "ssl"),
    *("time", "random", "secrets", "uuid", "logging", "structlog"),
}
ONLY_IMPORTER = {"libvirt": "tunnel.virt.libvirt"}

LONGEST_FUNCTION = 60
LONGEST_MODULE = 500


class Import(NamedTuple):
    """One imported module or name, dotted and absolute, and whether only a type checker executes it."""

    name: str
    line: int
    typing_only: bool


class Module(NamedTuple):
    """A source file and the name that it is imported by once installed."""

    name: str
    path: Path

    @property
    def layer(self) -> str:
        return self.name.split(".")[1] if "." in self.name else ""


def _module(path: Path) -> Module:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] not in {"tunnel", "tests"}:
        parts.insert(
            0, "tunnel"
        )  # cli, certs and bench stand beside tunnel in the tree, inside it once installed
    if parts[-1] == "__init__":
        parts.pop()
    return Module(".".join(parts), path)


def _modules(*folders: str) -> list[Module]:
    return [_module(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


SOURCES = _modules("tunnel", "cli", "certs", "bench")
TESTS = _modules("tests")

each_source = pytest.mark.parametrize("module", SOURCES, ids=lambda module: module.name)
each_module = pytest.mark.parametrize("module", SOURCES + TESTS, ids=lambda module: module.name)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _imports(node: ast.AST, typing_only: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, typing_only) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from (Import(f"{base}.{alias.name}", child.lineno, typing_only) for alias in child.names)
        else:
            guarded = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(child, typing_only or guarded)


def _under(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _is_downward(module: Module, imported: Import) -> bool:
    if module.layer == "":
        return False  # the root package is below every layer
    layer = imported.name.split(".")[1]
    if layer not in MAY_IMPORT or layer == module.layer or layer in MAY_IMPORT[module.layer]:
        return True  # a name that is no layer is one that tunnel/__init__.py itself defines
    annotation = any(_under(imported.name, allowed) for allowed in MAY_ANNOTATE_WITH.get(module.name, ()))
    return annotation and imported.typing_only


@each_source
def test_imports_point_downward(module: Module) -> None:
    ours = [found for found in _imports(_tree(module.path)) if found.name.startswith("tunnel.")]
    upward = [found for found in ours if not _is_downward(module, found)]
    assert not upward, f"{module.name} may import {sorted(MAY_IMPORT.get(module.layer, ()))} of tunnel only"


@each_module
def test_imports_name_what_is_installed(module: Module) -> None:
    folders = {"cli", "certs", "bench"}
    wrong = [
        found
        for found in _imports(_tree(module.path))
        if found.name.startswith(".") or found.name.split(".")[0] in folders
    ]
    assert not wrong, "write tunnel.cli, tunnel.certs, tunnel.bench, and no relative imports"


@pytest.mark.parametrize("module", [m for m in SOURCES if m.layer == "wire"], ids=lambda module: module.name)
def test_the_wire_is_sans_io(module: Module) -> None:
    doors = [found for found in _imports(_tree(module.path)) if found.name.split(".")[0] in NOT_SANS_IO]
    assert not doors, f"{module.name} does its own input, output, timing or chance"


@pytest.mark.parametrize("library", ONLY_IMPORTER)
def test_a_library_has_only_one_importer(library: str) -> None:
    importers = {
        module.name
        for module in SOURCES
        if any(_under(found.name, library) for found in _imports(_tree(module.path)))
    }
    assert importers <= {ONLY_IMPORTER[library]}


@each_source
def test_every_layer_is_known(module: Module) -> None:
    assert module.layer in {"", *MAY_IMPORT}, (
        f"{module.name} belongs to no layer: give it a line in MAY_IMPORT"
    )


def _needs_tests(module: Module) -> bool:
    """A package's own file needs none as long as it only says what the package is for."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    is_package = module.path.name == "__init__.py"
    return not is_package or any(isinstance(node, definitions) for node in _tree(module.path).body)


@pytest.mark.parametrize("module", [m for m in SOURCES if _needs_tests(m)], ids=lambda module: module.name)
def test_every_module_has_its_tests(module: Module) -> None:
    *parents, name = module.name.split(".")[1:]
    mirror = ROOT.joinpath("tests", *parents, f"test_{name.strip('_')}.py")
    assert mirror.exists(), f"{mirror.relative_to(ROOT)} is missing"


@each_module
def test_sizes_stay_readable(module: Module) -> None:
    lines = module.path.read_text().count("\n")
    assert lines <= LONGEST_MODULE, f"{module.path.relative_to(ROOT)} has {lines} lines"
    for node in ast.walk(_tree(module.path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= LONGEST_FUNCTION, (
                f"{module.path.relative_to(ROOT)}:{node.lineno} {node.name}: {size} lines"
            )


@each_module
def test_nothing_is_skipped(module: Module) -> None:
    """A test that cannot run here must fail: a skip looks like success from a distance."""
    ways = {"skip", "skipif", "xfail", "importorskip"}
    used = [
        node for node in ast.walk(_tree(module.path)) if isinstance(node, ast.Attribute) and node.attr in ways
    ]
    of_pytest = [f"line {node.lineno}" for node in used if ast.unparse(node).startswith(("pytest.", "mark."))]
    assert not of_pytest

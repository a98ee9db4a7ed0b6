"""The structure of the source is part of its contract: imports point downward, every module has its tests.

The layers stand in ``MAY_IMPORT``, lowest first. ``certs`` and ``bench`` stand beside the daemon's path:
nothing on that path knows them. The wire is sans-IO: what it may not import are the doors to sockets, clocks
and chance.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "errors": set[str](),
    "units": set[str](),
    "names": set[str](),
    "files": set[str](),
    "distribution": set[str](),
    "wire": {"errors", "units"},
    "engine": {"errors"},
    "net": {"errors"},
    "host": {"errors", "units", "net"},
    "records": {"errors", "units", "wire", "engine", "net"},
    "tls": {"errors", "units", "files", "names", "wire", "net", "records"},
    "lanes": {"errors", "units", "wire", "engine", "net", "records", "tls"},
    "relay": {"errors", "units", "names", "wire", "net", "host", "records", "tls", "lanes"},
    "virt": {"errors", "units", "distribution"},
    "daemon": {
        *("errors", "units", "files", "distribution"),
        *("wire", "engine", "net", "host", "tls", "lanes", "relay"),
    },
    "proof": {"errors", "units", "virt", "daemon"},
    "certs": {"errors", "files", "names"},
    "bench.lab": {"errors", "units", "distribution", "virt", "proof", "certs"},
    "bench.measure": {
        *("errors", "units", "distribution", "wire", "engine", "net", "host", "records", "tls", "lanes"),
        *("virt", "proof", "daemon", "certs", "bench.lab"),
    },
    "bench.report": {"errors", "units", "wire", "bench.measure"},
    "bench": {"errors", "units", "daemon", "bench.lab", "bench.measure", "bench.report"},
    "cli": {
        *("errors", "units", "names", "distribution", "wire", "engine", "host", "tls", "relay"),
        *("virt", "proof", "daemon", "certs"),
    },
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
        return _layer(self.name) if "." in self.name else ""


def _layer(name: str) -> str:
    """The room that ``name`` is in: the rooms of ``bench`` are rooms of their own."""
    _, first, *rest = name.split(".")
    room = f"{first}.{rest[0]}" if rest else first
    return room if room in MAY_IMPORT else first


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
ALL = SOURCES + _modules("tests")


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
    if not imported.name.startswith("tunnel."):
        return True
    if module.layer == "":
        return False  # the root package is below every layer
    layer = _layer(imported.name)
    if layer not in MAY_IMPORT or layer == module.layer or layer in MAY_IMPORT[module.layer]:
        return True  # a name that is no layer is one that tunnel/__init__.py itself defines
    annotation = any(_under(imported.name, allowed) for allowed in MAY_ANNOTATE_WITH.get(module.name, ()))
    return annotation and imported.typing_only


def _none(wrong: Iterable[str]) -> None:
    """Fail with every case that is wrong, one to a line: an assertion would show the first few."""
    if cases := sorted(wrong):
        pytest.fail("\n".join(cases), pytrace=False)


def _where(module: Module, line: int = 1) -> str:
    return f"{module.path.relative_to(ROOT)}:{line}"


def _imports_that(modules: list[Module], are_wrong: Callable[[Module, Import], bool]) -> Iterator[str]:
    for module in modules:
        for found in _imports(_tree(module.path)):
            if are_wrong(module, found):
                yield f"{_where(module, found.line)} imports {found.name}"


@pytest.mark.parametrize(
    ("importer", "imported", "typing_only", "downward"),
    [
        ("tunnel.relay.link", "tunnel.wire.frames", False, True),
        ("tunnel.relay.link", "tunnel.virt.qmp", False, False),
        ("tunnel.virt.qmp", "tunnel.relay", True, False),
        ("tunnel.daemon.service", "tunnel.certs", False, False),
        ("tunnel.errors", "tunnel.wire.codes.Code", True, True),
        ("tunnel.errors", "tunnel.wire.codes.Code", False, False),
        ("tunnel", "tunnel.errors", False, False),
        ("tunnel.wire.codes", "tunnelling", False, True),
    ],
)
def test_the_rule_tells_down_from_up(importer: str, imported: str, typing_only: bool, downward: bool) -> None:
    assert _is_downward(Module(importer, ROOT), Import(imported, 1, typing_only)) is downward


def test_every_layer_is_known() -> None:
    assert {module.layer for module in SOURCES} <= {"", *MAY_IMPORT}


def test_imports_point_downward() -> None:
    _none(_imports_that(SOURCES, lambda module, found: not _is_downward(module, found)))


def test_nothing_is_allowed_that_is_not_used() -> None:
    used: dict[str, set[str]] = {layer: set() for layer in MAY_IMPORT}
    for module in SOURCES:
        for found in _imports(_tree(module.path)):
            if module.layer and found.name.startswith("tunnel.") and not found.typing_only:
                used[module.layer].add(_layer(found.name))
    spare = {layer: allowed - used[layer] for layer, allowed in MAY_IMPORT.items()}
    _none(f"{layer} may import {', '.join(sorted(unused))}" for layer, unused in spare.items() if unused)


def test_imports_name_what_is_installed() -> None:
    """Once installed, cli, certs and bench are inside tunnel; relative imports hide which layer is meant."""
    folders = {"", "cli", "certs", "bench"}
    _none(_imports_that(ALL, lambda _, found: found.name.split(".")[0] in folders))


def test_the_wire_is_sans_io() -> None:
    wire = [module for module in SOURCES if module.layer == "wire"]
    assert wire
    _none(_imports_that(wire, lambda _, found: found.name.split(".")[0] in NOT_SANS_IO))


@pytest.mark.parametrize(("library", "importer"), ONLY_IMPORTER.items())
def test_a_library_has_one_importer(library: str, importer: str) -> None:
    _none(
        _imports_that(SOURCES, lambda module, found: _under(found.name, library) and module.name != importer)
    )


def _needs_tests(module: Module) -> bool:
    """Whether it defines anything that does something: protocols do not, nor does a package's docstring."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    body = [node for node in _tree(module.path).body if not _is_protocol(node)]
    is_package = module.path.name == "__init__.py"
    has_protocols = len(body) < len(_tree(module.path).body)
    return any(isinstance(node, definitions) for node in body) or not (is_package or has_protocols)


def _is_protocol(node: ast.stmt) -> bool:
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    return any(base.partition("[")[0] == "Protocol" for base in bases)


def _mirror(module: Module) -> Path:
    *parents, name = module.name.split(".")[1:]
    return Path("tests", *parents, f"test_{name.strip('_')}.py")


def test_every_module_has_its_tests() -> None:
    mirrors = {_mirror(module) for module in SOURCES if _needs_tests(module)}
    _none(f"{mirror} is missing" for mirror in mirrors if not (ROOT / mirror).exists())


def test_no_name_of_a_module_or_class_is_used_twice() -> None:
    """Whoever searches for one finds one."""
    places: dict[str, list[str]] = {}
    for module in SOURCES:
        if not module.path.name.startswith("__"):
            places.setdefault(module.path.stem, []).append(_where(module))
        for node in ast.walk(_tree(module.path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(_where(module, node.lineno))
    _none(f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1)


def test_modules_stay_readable() -> None:
    lengths = {module: module.path.read_text().count("\n") for module in ALL}
    _none(f"{_where(module)} {count} lines" for module, count in lengths.items() if count > LONGEST_MODULE)


def _functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(_tree(module.path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_stay_readable() -> None:
    _none(
        f"{_where(module, function.lineno)} {function.name} is longer than {LONGEST_FUNCTION} lines"
        for module in ALL
        for function in _functions(module)
        if (function.end_lineno or 0) - function.lineno >= LONGEST_FUNCTION
    )


def test_nothing_is_skipped() -> None:
    """A test that cannot run here must fail: a skip looks like success from a distance."""
    ways = {"skip", "skipif", "xfail", "importorskip"}
    _none(
        f"{_where(module, node.lineno)} {ast.unparse(node)}"
        for module in ALL
        for node in ast.walk(_tree(module.path))
        if isinstance(node, ast.Attribute) and node.attr in ways
        if ast.unparse(node.value) in {"pytest", "pytest.mark", "mark"}
    )

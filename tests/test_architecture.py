"""The map of the code is true: what docs/architecture.md and docs/glossary.md name exists where they say.

An entry is ``path.py:Name.attribute`` in backticks. It has to be defined in that very file: a method that a
class only inherits is found in the file of its base. A path in backticks, or behind a link, has to exist.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.test_layering import MAY_IMPORT

ROOT = Path(__file__).parent.parent
MAP = ROOT / "docs/architecture.md"
GLOSSARY = ROOT / "docs/glossary.md"

FEWEST = {MAP: 150, GLOSSARY: 40}
"""Entries that a page has at least, so that nothing passes because nothing was found."""

_CODE = re.compile(r"`([^`\n]+)`")
_ENTRY = re.compile(r"(?P<path>[\w./-]+\.py):(?P<name>[A-Za-z_][\w.]*)")
_PATH = re.compile(r"(?:tunnel|cli|certs|bench|tests|docs)/[\w./-]*|README\.md")
_LINK = re.compile(r"\]\(([^)#:]+)\)")
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def _entries(text: str) -> list[tuple[str, str]]:
    found = map(_ENTRY.fullmatch, _CODE.findall(text))
    return [(entry["path"], entry["name"]) for entry in found if entry is not None]


def _paths(text: str) -> set[str]:
    named = {code for code in _CODE.findall(text) if _PATH.fullmatch(code)}
    return named | {path for path, _ in _entries(text)}


@functools.cache
def _tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def _targets(node: ast.AST) -> list[ast.expr]:
    """What an assignment binds, one by one; [] for anything else."""
    match node:
        case ast.Assign(targets):
            return [each for target in targets for each in getattr(target, "elts", [target])]
        case ast.AnnAssign(target):
            return [target]
    return []


def _sets_on_self(method: ast.AST, name: str) -> bool:
    targets = [target for node in ast.walk(method) for target in _targets(node)]
    return any(ast.unparse(target) == f"self.{name}" for target in targets)


def _definition(scope: ast.AST, name: str) -> ast.AST | None:
    """Where ``name`` is defined in a module or a class, or set on ``self`` by a method of the class."""
    if not isinstance(scope, ast.Module | ast.ClassDef):
        return None
    for node in scope.body:
        if isinstance(node, _FUNCTION | ast.ClassDef) and node.name == name:
            return node
        if any(ast.unparse(target) == name for target in _targets(node)):
            return node
        if isinstance(scope, ast.ClassDef) and isinstance(node, _FUNCTION) and _sets_on_self(node, name):
            return node
    return None


def _is_defined(path: str, name: str) -> bool:
    scope: ast.AST | None = _tree(path)
    for part in name.split("."):
        scope = _definition(scope, part) if scope is not None else None
    return scope is not None


def _packages() -> set[str]:
    folders = [ROOT / top for top in ("tunnel", "cli", "certs", "bench")]
    files = [file for folder in folders for file in folder.rglob("__init__.py")]
    return {str(file.parent.relative_to(ROOT)) for file in files}


def _rows() -> dict[str, list[str]]:
    """The table of packages: the other cells of a row by the package that it is about."""
    section = MAP.read_text().split("\n## Packages\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): row[1:] for row in rows}


# The path of a byte.

MOST_FILES = 12
MOST_LEVELS = 3
VARIANTS = {
    "userspace lane": "",
    "kernel lane": "What differs on a kernel lane",
    "compiled engine": "The compiled engine",
}
"""The sections that replace steps of the path over a userspace lane, by the name of the path."""


def _steps(cell: str) -> set[int]:
    """The numbers in ``1``, ``A 6, 9, 10`` or ``B 2 to 7``."""
    numbers = [int(number) for number in re.findall(r"\d+", cell)]
    return set(range(numbers[0], numbers[-1] + 1)) if " to " in cell else set(numbers)


def _table(heading: str) -> list[tuple[str, str]]:
    """The first cell and the rest of each row that is a step of a path."""
    section = MAP.read_text().split(f"\n## {heading}")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in section.splitlines()]
    return [(row[0], row[1]) for row in rows if re.fullmatch(r"(?:[AB] )?\d[\d, to]*", row[0])]


def path_of_a_byte(name: str, host: str) -> list[tuple[str, str]]:
    """The entries of the path ``name`` of VARIANTS on ``host``, A or B: files and names."""
    replaced: set[int] = set()
    text = ""
    for cell, rest in _table(VARIANTS[name]) if VARIANTS[name] else []:
        if cell.startswith(host):
            replaced |= _steps(cell)
            text += rest
    for cell, rest in _table(f"One byte, host {host}:"):
        text += "" if _steps(cell) <= replaced else rest
    return _entries(text)


def _bases() -> dict[str, list[str]]:
    """The classes of the product, by name, which is unique, and their bases without parameters."""
    files = [file for top in ("tunnel", "cli", "certs", "bench") for file in (ROOT / top).rglob("*.py")]
    trees = [_tree(str(file.relative_to(ROOT))) for file in files]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name: [ast.unparse(base).split("[")[0] for base in node.bases] for node in classes}


def _levels(name: str, bases: dict[str, list[str]]) -> int:
    """Levels of a class, its own and those of its bases in the product."""
    return 1 + max((_levels(base, bases) for base in bases[name] if base in bases), default=0)


each_page = pytest.mark.parametrize("page", FEWEST, ids=lambda page: page.stem)


@each_page
def test_every_entry_is_defined_where_it_says(page: Path) -> None:
    entries = _entries(page.read_text())
    assert len(entries) >= FEWEST[page]
    there = [(path, name) for path, name in entries if (ROOT / path).is_file()]
    assert not {f"{path}:{name}" for path, name in there if not _is_defined(path, name)}


@each_page
def test_every_path_and_link_leads_somewhere(page: Path) -> None:
    paths, links = _paths(page.read_text()), set(_LINK.findall(page.read_text()))
    assert paths
    assert links
    assert not {path for path in paths if not (ROOT / path).exists()}
    assert not {link for link in links if not (page.parent / link).exists()}


@each_page
def test_whatever_looks_like_an_entry_is_one(page: Path) -> None:
    """One that is misspelt, such as with the parentheses of a call, must not go unread."""
    suspects = {code for code in _CODE.findall(page.read_text()) if ".py:" in code}
    assert not {code for code in suspects if not _ENTRY.fullmatch(code)}


@pytest.mark.parametrize(
    ("entry", "defined"),
    [
        ("tunnel/relay/pump.py:Pump", True),
        ("tunnel/relay/pump.py:Pump.read", True),
        ("tunnel/relay/pump.py:Pump._waiting", True),  # self._waiting: … = …
        ("tunnel/lanes/base_lane.py:BaseLane.remote", True),
        ("tunnel/relay/egress.py:dial", True),
        ("tunnel/wire/frames.py:Frame", True),
        ("tunnel/daemon/config.py:Transport.lanes", True),
        ("tunnel/relay/pump.py:Pump.reads", False),
        ("tunnel/relay/pump.py:Socket.read", False),
        ("tunnel/relay/pump.py:read", False),  # a method without its class
        ("tunnel/relay/pump.py:Pump.read.data", False),
        ("tunnel/relay/pump.py:Pump.elapsed", False),  # a local variable
        ("tunnel/relay/pump.py:suppress", False),  # an import
        ("tunnel/lanes/userspace_lane.py:UserspaceLane.flush", False),  # inherited
    ],
)
def test_an_entry_that_does_not_exist_is_told_from_one_that_does(entry: str, defined: bool) -> None:
    ((path, name),) = _entries(f"| `{entry}` |")
    assert _is_defined(path, name) is defined


each_path = pytest.mark.parametrize(
    ("path", "host"), [(path, host) for path in VARIANTS for host in "AB"], ids=lambda part: str(part)
)


@each_path
def test_a_byte_passes_few_files(path: str, host: str) -> None:
    files = {file for file, _ in path_of_a_byte(path, host)}
    assert 8 <= len(files) <= MOST_FILES, sorted(files)
    (row,) = [line for line in MAP.read_text().splitlines() if line.startswith(f"| {path} |")]
    assert int(row.split("|")[2 + "AB".index(host)]) == len(files), sorted(files)


@each_path
def test_a_byte_passes_few_levels_of_classes(path: str, host: str) -> None:
    bases = _bases()
    levels = {name.split(".")[0] for _, name in path_of_a_byte(path, host)} & set(bases)
    assert len(levels) >= 6
    assert not {name for name in levels if _levels(name, bases) > MOST_LEVELS}


def test_levels_are_counted_with_the_interface() -> None:
    bases = _bases()
    assert [_levels(name, bases) for name in ("Lane", "BaseLane", "UserspaceLane", "KernelLane")] == [
        1,
        2,
        3,
        3,
    ]


def test_the_table_has_every_package_and_no_other() -> None:
    assert set(_rows()) == _packages()


@pytest.mark.parametrize("package", sorted(_packages()))
def test_the_table_says_what_may_be_imported(package: str) -> None:
    """What is no package, such as ``errors``, is left out there; packages of ``cli`` share its rights."""
    top, _, below = package.partition("/")
    room = below if top == "tunnel" and below else package.replace("/", ".")
    allowed = MAY_IMPORT.get(room, MAY_IMPORT.get(top, set())) if package != "tunnel" else set()
    packages = {path.removeprefix("tunnel/") for path in _packages()}
    stated = set(_rows()[package][1].split(", ")) - {"nothing"}
    assert stated == {layer.replace(".", "/") for layer in allowed} & packages


@pytest.mark.parametrize("package", sorted(_packages()))
def test_the_table_names_files_of_the_package(package: str) -> None:
    files = _CODE.findall(_rows()[package][-1])
    assert files
    assert not [file for file in files if not (ROOT / package / file).is_file()]


@pytest.mark.parametrize("package", sorted(_packages()))
def test_every_package_says_what_it_is_for(package: str) -> None:
    docstring = ast.get_docstring(_tree(f"{package}/__init__.py")) or ""
    assert len(docstring.splitlines()) >= 5

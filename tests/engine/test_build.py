"""The library is named by a digest of its sources, and a failed compiler leaves no files."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest

from tests.support.compiled_engine import run
from tunnel.engine import build


def test_the_name_depends_on_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = build.file_name()
    assert name == build.file_name()
    assert (name[:7], name[-5:]) == ("engine-", ".so.1")
    assert inspect.getmodulename(name) is None
    for path in (build.HEADER, *build.SOURCES):
        shutil.copy(path, tmp_path)
    with (tmp_path / "records.c").open("a") as file:
        file.write("/* another */\n")
    monkeypatch.setattr(build, "SOURCES", tuple(tmp_path / path.name for path in build.SOURCES))
    assert build.file_name() != name


def test_every_c_file_is_built() -> None:
    assert set(build.SOURCES) == set(build.HERE.glob("*.c"))


def test_it_is_hardened_and_not_linked_to_openssl(built: Path) -> None:
    dynamic = run(["readelf", "-dW", built])
    assert "BIND_NOW" in dynamic
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line}
    assert {name.split(".")[0] for name in needed} <= {"libc", "libdl"}
    headers = run(["readelf", "-lW", built])
    assert "GNU_RELRO" in headers
    assert "RWE" not in headers
    symbols = run(["readelf", "--dyn-syms", "-W", built])
    assert "__stack_chk_fail" in symbols


def test_only_functions_for_python_are_exported(built: Path) -> None:
    symbols = run(["nm", "-D", "--defined-only", built]).split()[2::3]
    assert symbols
    assert {name for name in symbols if not name.startswith("mt_")} == set()


@pytest.mark.parametrize("command", ["/nonexistent/cc", "false", "sh -c 'echo no such flag >&2; exit 1'"])
def test_the_error_of_the_compiler_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.raises(build.BuildError, match=r"No such file|failed: (1|no such flag)"):
        build.build(tmp_path / "engine.so")
    assert not list(tmp_path.iterdir())


def test_the_flags_of_the_environment_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-fno-such-option")
    with pytest.raises(build.BuildError, match="no-such-option"):
        build.build(tmp_path / "engine.so")

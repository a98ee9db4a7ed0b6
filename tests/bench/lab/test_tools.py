"""Finding third-party programs, and their versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.lab import tools
from tunnel.errors import UsageError


def _script(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp}:/usr/bin:/bin")
    return tmp


def test_a_program_is_found_on_the_path(path: Path) -> None:
    _script(path, "relayd", "true")
    assert tools.find("relayd") == str(path / "relayd")


def test_a_system_program_is_found_although_the_path_has_no_sbin(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(path, "relayd", "true")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(tools, "_SYSTEM_DIRECTORIES", str(path))
    assert tools.find("relayd") == str(path / "relayd")


def test_a_missing_program_is_named_in_the_error() -> None:
    assert tools.find("no-such-relay") is None
    with pytest.raises(UsageError, match="no-such-relay is not installed"):
        tools.path_of("no-such-relay")


@pytest.mark.parametrize("redirect", ["", ">&2"])
def test_the_version_is_the_first_line_with_a_number(path: Path, redirect: str) -> None:
    _script(path, "relayd", f"printf 'by somebody\\nrelayd version 1.7.4\\nlib 3.0\\n' {redirect}")
    assert tools.version_said("relayd", "-V") == "relayd version 1.7.4"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "Built with OpenSSL version : OpenSSL 3.0.22\\nRunning on OpenSSL version : OpenSSL 3.0.19\\n",
            "OpenSSL 3.0.19",
        ),
        (
            "Running on: Linux 6.18\\nRunning on SSL library version : OpenSSL 3.6.5 2026\\n",
            "OpenSSL 3.6.5 2026",
        ),
    ],
    ids=["HAProxy 2.6", "HAProxy 3.2"],
)
def test_the_library_is_the_one_that_it_runs_on(path: Path, lines: str, expected: str) -> None:
    _script(path, "relayd", f"printf 'relayd version 1.7.4\\n{lines}'")
    assert tools.running_on("relayd", "-vv") == f"relayd version 1.7.4, running on {expected}"


def test_a_program_without_a_library_has_only_a_version(path: Path) -> None:
    _script(path, "relayd", "echo relayd version 1.7.4; echo Running on: Linux")
    assert tools.running_on("relayd", "-vv") == "relayd version 1.7.4"


def test_the_version_of_a_program_that_prints_none_is_unknown(path: Path) -> None:
    _script(path, "relayd", "echo hello")
    assert tools.version_said("relayd", "-V") == "unknown"

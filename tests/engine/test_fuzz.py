"""The C under AddressSanitizer and UndefinedBehaviorSanitizer: damaged records, and the cases of Python.

Longer, by hand: ``./run fuzz``. ``fuzz.c`` explains how to repeat one round.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.compiled_engine import PROVIDERS, ROOT, SANITIZERS, arguments, build_program, run
from tunnel.engine import build


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzer")
    return build_program(Path(__file__).with_name("fuzz.c"), folder / "fuzz")


def fuzz(program: Path, name: str, seed: int, rounds: int, seconds: float) -> None:
    libraries = [argument for argument in arguments(name) if argument]
    printed = run([program, str(seed), str(rounds), *libraries], seconds)
    assert printed == f"{rounds} rounds\n"


@pytest.mark.parametrize("name", PROVIDERS)
def test_damaged_records_cause_no_fault(fuzzer: Path, name: str) -> None:
    fuzz(fuzzer, name, 1, 10_000, 100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_million_damaged_streams_cause_no_fault(fuzzer: Path, name: str) -> None:
    fuzz(fuzzer, name, 1_000_000, 1_000_000, 3000)


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_reference_agrees_with_a_sanitized_library(tmp_path: Path, name: str) -> None:
    """The sanitizers' libraries must be loaded before Python's first allocation."""
    target = tmp_path / build.file_name()
    build.build(target, (*SANITIZERS, "-Werror"))
    libraries = [
        run([*build.compiler(), f"-print-file-name={file}"]).strip() for file in ("libasan.so", "libubsan.so")
    ]
    printed = run(
        [sys.executable, "-m", "tests.support.engine_cases", target, *arguments(name), "20000", "300"],
        LD_PRELOAD=" ".join(libraries),
        ASAN_OPTIONS="detect_leaks=0",
        PYTHONPATH=str(ROOT),
        PYTHONMALLOC="malloc",
    )
    assert printed == "300 cases agree\n"


def test_the_sanitizers_are_active(tmp_path: Path) -> None:
    """An engine that reads one byte too many is detected."""
    for path in (build.HEADER, *build.SOURCES):
        text = path.read_text()
        changed = text.replace("if (left < HEADER)", "if (left + 1 < HEADER)")
        (tmp_path / path.name).write_text(changed)
        assert (changed != text) == (path.name == "records.c")
    source = Path(__file__).with_name("fuzz.c").read_text()
    (tmp_path / "fuzz.c").write_text(source.replace("../../tunnel/engine/", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SOURCES", tuple(tmp_path / path.name for path in build.SOURCES))
        program = build_program(tmp_path / "fuzz.c", tmp_path / "fuzz")
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        fuzz(program, "libcrypto", 1, 10_000, 100)

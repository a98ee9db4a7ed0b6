"""Which engine is used, and that the reason says what an operator can do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compiled_engine import NEEDS_IPSEC_MB, ipsec_mb
from tunnel.engine import choice
from tunnel.engine.binding import Provider
from tunnel.engine.choice import ENGINE, LIBCRYPTO, choose, has_vector_aes
from tunnel.errors import UsageError


@pytest.fixture(autouse=True)
def _nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have asked for Python."""
    monkeypatch.delenv(ENGINE, raising=False)


def with_version(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], vaes: bool = True) -> None:
    """Let libcrypto seem to be of another version, on a processor with or without VAES."""
    made = Provider.__init__

    def make(self: Provider, library: object, libcrypto: str) -> None:
        made(self, library, libcrypto)
        self.version = version

    monkeypatch.setattr(Provider, "__init__", make)
    monkeypatch.setattr(choice, "has_vector_aes", lambda: vaes)


def test_a_new_libcrypto_is_enough(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 1, 4))
    chosen = choose(built.parent, ipsec_mb="libnone.so")
    assert chosen.provider
    assert chosen.reason == "compiled, with libcrypto 3.1.4"


def test_an_old_libcrypto_is_slower_than_python(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 0, 99))
    chosen = choose(built.parent, ipsec_mb="libnone.so")
    assert chosen.provider is None
    assert chosen.reason.startswith(
        "Python (libcrypto 3.0.99 is slower than the OpenSSL of cryptography here; "
    )
    expected = "would help (Debian: libipsec-mb1): libnone.so: cannot open shared object file"
    assert expected in chosen.reason


def test_an_old_libcrypto_does_on_an_older_processor(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 0, 99), vaes=False)
    chosen = choose(built.parent, ipsec_mb="libnone.so")
    assert chosen.reason == "compiled, with libcrypto 3.0.99"


def test_ipsec_mb_takes_its_place(built: Path) -> None:
    """On this machine, if its libcrypto is old."""
    chosen = choose(built.parent, ipsec_mb=ipsec_mb())
    assert chosen.provider
    assert bool(chosen.provider.ipsec_mb) == NEEDS_IPSEC_MB
    assert chosen.reason == f"compiled, with {chosen.provider.name}"


def test_a_wrong_answer_is_the_reason(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 2, 0))
    monkeypatch.setattr(choice, "fault", lambda provider: "it makes nonsense")
    chosen = choose(built.parent)
    assert chosen.provider is None
    assert chosen.reason == (
        "Python (the compiled engine failed its self-test with libcrypto 3.2.0: it makes nonsense)"
    )


def test_without_the_library(tmp_path: Path) -> None:
    chosen = choose(tmp_path)
    assert chosen.provider is None
    assert "was not built: there was no C compiler when mtunnel was installed" in chosen.reason


def test_with_a_library_of_other_sources(tmp_path: Path) -> None:
    (tmp_path / "engine-0123456789abcdef.so.1").touch()
    chosen = choose(tmp_path)
    assert chosen.provider is None
    assert "is of other sources than these: install mtunnel again" in chosen.reason


def test_with_a_library_that_does_not_load(built: Path, tmp_path: Path) -> None:
    (tmp_path / built.name).write_bytes(b"nonsense")
    assert choose(tmp_path).reason.startswith(f"Python (the compiled engine cannot be used: {built.name}: ")


def test_without_libcrypto(built: Path) -> None:
    chosen = choose(built.parent, libcrypto="libnone.so.3")
    assert chosen.provider is None
    assert "cannot be used: libnone.so.3: cannot open shared object file" in chosen.reason


def test_python_is_used_where_it_is_asked_for(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no library of the system is opened."""
    opened: list[Path] = []
    monkeypatch.setattr(choice, "load", opened.append)
    monkeypatch.setenv(ENGINE, "python")
    chosen = choose(built.parent)
    assert (chosen.provider, chosen.reason) == (None, "Python (asked for by MTUNNEL_ENGINE)")
    assert opened == []


def test_an_empty_variable_asks_for_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 1, 4))
    monkeypatch.setenv(ENGINE, "")
    assert choose(built.parent).provider


@pytest.mark.parametrize("asked", ["Python", "compiled", "pyhton", "0"])
def test_nothing_else_can_be_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who mistypes it must not get the engine that was to be kept out."""
    monkeypatch.setenv(ENGINE, asked)
    with pytest.raises(UsageError, match=f"MTUNNEL_ENGINE is '{asked}': it may be 'python', or not be set"):
        choose()


def test_the_names_are_those_of_the_system() -> None:
    assert LIBCRYPTO == "libcrypto.so.3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu aes avx512f vaes vpclmulqdq\n", True),
        ("processor\t: 0\nflags\t\t: fpu aes avx2\n", False),
        ("model name\t: vaes\nflags\t: aes\n", False),
        ("Features\t: fp asimd aes pmull\n", False),
        ("", False),
    ],
)
def test_what_a_processor_can(tmp_path: Path, text: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert has_vector_aes(path) is expected


def test_a_processor_that_says_nothing(tmp_path: Path) -> None:
    assert not has_vector_aes(tmp_path / "none")

"""Selection of the engine, and a reason from which an operator can see what to do."""

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
    """The environment of the tests may have it set."""
    monkeypatch.delenv(ENGINE, raising=False)


def with_version(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], vaes: bool = True) -> None:
    """Make libcrypto appear to have another version, on a processor with or without VAES."""
    made = Provider.__init__

    def make(self: Provider, library: object, libcrypto: str) -> None:
        made(self, library, libcrypto)
        self.version = version

    monkeypatch.setattr(Provider, "__init__", make)
    monkeypatch.setattr(choice, "has_vector_aes", lambda: vaes)


def test_a_new_libcrypto_is_sufficient(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 1, 4))
    chosen = choose(built.parent, ipsec_mb="libnone.so")
    assert chosen.provider
    assert chosen.reason == "compiled, with libcrypto 3.1.4"


def test_an_old_libcrypto_is_slower_than_python(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 0, 99))
    chosen = choose(built.parent, ipsec_mb="libnone.so")
    assert chosen.provider is None
    assert chosen.reason.startswith(
        "Python (libcrypto 3.0.99 is slower than cryptography's OpenSSL on this CPU; "
    )
    expected = "would help (Debian: libipsec-mb1): libnone.so: cannot open shared object file"
    assert expected in chosen.reason


def test_an_old_libcrypto_is_used_on_an_older_processor(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 0, 99), vaes=False)
    chosen = choose(built.parent, ipsec_mb="libnone.so")
    assert chosen.reason == "compiled, with libcrypto 3.0.99"


def test_ipsec_mb_replaces_an_old_libcrypto(built: Path) -> None:
    """On a machine with an old libcrypto."""
    chosen = choose(built.parent, ipsec_mb=ipsec_mb())
    assert chosen.provider
    assert bool(chosen.provider.ipsec_mb) == NEEDS_IPSEC_MB
    assert chosen.reason == f"compiled, with {chosen.provider.name}"


def test_a_failed_self_test_is_the_reason(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "was not built: no C compiler was found when mtunnel was installed" in chosen.reason


def test_with_a_library_of_other_sources(tmp_path: Path) -> None:
    (tmp_path / "engine-0123456789abcdef.so.1").touch()
    chosen = choose(tmp_path)
    assert chosen.provider is None
    assert "was built from other sources: reinstall mtunnel" in chosen.reason


def test_with_a_library_that_does_not_load(built: Path, tmp_path: Path) -> None:
    (tmp_path / built.name).write_bytes(b"nonsense")
    assert choose(tmp_path).reason.startswith(f"Python (the compiled engine cannot be used: {built.name}: ")


def test_without_libcrypto(built: Path) -> None:
    chosen = choose(built.parent, libcrypto="libnone.so.3")
    assert chosen.provider is None
    assert "cannot be used: libnone.so.3: cannot open shared object file" in chosen.reason


def test_python_is_used_when_requested(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No library of the system is opened then."""
    opened: list[Path] = []
    monkeypatch.setattr(choice, "load", opened.append)
    monkeypatch.setenv(ENGINE, "python")
    chosen = choose(built.parent)
    assert (chosen.provider, chosen.reason) == (None, "Python (set by MTUNNEL_ENGINE)")
    assert opened == []


def test_an_empty_variable_is_ignored(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, (3, 1, 4))
    monkeypatch.setenv(ENGINE, "")
    assert choose(built.parent).provider


@pytest.mark.parametrize("asked", ["Python", "compiled", "pyhton", "0"])
def test_other_values_are_errors(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo must not enable the engine that was to be disabled."""
    monkeypatch.setenv(ENGINE, asked)
    with pytest.raises(
        UsageError, match=f"invalid MTUNNEL_ENGINE='{asked}': set it to 'python', or unset it"
    ):
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
def test_vaes_is_read_from_the_flags_of_the_processor(tmp_path: Path, text: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert has_vector_aes(path) is expected


def test_a_processor_without_information(tmp_path: Path) -> None:
    assert not has_vector_aes(tmp_path / "none")

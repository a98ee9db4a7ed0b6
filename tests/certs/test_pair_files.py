"""Writing a pair: both files or neither, and a key that others can never read."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunnel.certs.pair_files import Pair, write_pair
from tunnel.errors import CertificateError


@pytest.fixture
def pair(tmp: Path) -> Pair:
    return Pair.named(tmp, "hosta")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@contextmanager
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Make every write beyond ``limit`` bytes of a file fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_both_files_and_nothing_else(pair: Pair, tmp: Path) -> None:
    write_pair(pair, b"certificate", b"key", force=False)
    assert contents(tmp) == {"hosta.pem": b"certificate", "hosta.key": b"key"}


def test_key_is_private_from_its_first_byte(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: dict[str, int] = {}
    real_open = os.open

    def spy(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        modes[path.name.split(".")[2] if path.name.startswith(".") else path.name] = os.fstat(
            descriptor
        ).st_mode
        return descriptor

    monkeypatch.setattr(os, "open", spy)
    with open_umask():
        write_pair(pair, b"certificate", b"key", force=False)
    assert stat.S_IMODE(modes["key"]) == 0o600
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(pair.cert.stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["hosta.pem", "hosta.key"])
def test_never_overwrites_either_file(pair: Pair, tmp: Path, name: str) -> None:
    (tmp / name).write_bytes(b"precious")
    with pytest.raises(CertificateError, match=f"{name} already exists"):
        write_pair(pair, b"certificate", b"key", force=False)
    assert contents(tmp) == {name: b"precious"}


def test_force_replaces_both_files(pair: Pair, tmp: Path) -> None:
    write_pair(pair, b"old certificate", b"old key", force=False)
    pair.key.chmod(0o644)
    write_pair(pair, b"certificate", b"key", force=True)
    assert contents(tmp) == {"hosta.pem": b"certificate", "hosta.key": b"key"}
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600


def test_force_needs_no_file_to_replace(pair: Pair, tmp: Path) -> None:
    write_pair(pair, b"certificate", b"key", force=True)
    assert contents(tmp) == {"hosta.pem": b"certificate", "hosta.key": b"key"}


def test_force_does_not_write_through_a_symbolic_link(pair: Pair, tmp: Path) -> None:
    target = tmp / "elsewhere"
    target.write_bytes(b"precious")
    pair.key.symlink_to(target)
    write_pair(pair, b"certificate", b"key", force=True)
    assert target.read_bytes() == b"precious"
    assert not pair.key.is_symlink()


def test_a_second_file_that_fails_leaves_no_first(pair: Pair, tmp: Path) -> None:
    pair.cert.mkdir()
    with pytest.raises(CertificateError, match="already exists"):
        write_pair(pair, b"certificate", b"key", force=False)
    assert contents(tmp) == {}


def test_a_second_file_that_fails_with_force_restores_the_first(pair: Pair, tmp: Path) -> None:
    pair.key.write_bytes(b"old key")
    pair.cert.mkdir()
    with pytest.raises(CertificateError, match=r"cannot write hosta\.pem and hosta\.key"):
        write_pair(pair, b"certificate", b"key", force=True)
    assert contents(tmp) == {"hosta.key": b"old key"}


def test_a_full_disk_leaves_nothing_behind(pair: Pair, tmp: Path) -> None:
    with file_size_limit(4), pytest.raises(CertificateError, match="File too large"):
        write_pair(pair, b"certificate", b"key", force=False)
    assert contents(tmp) == {}


def test_a_missing_directory_is_named(tmp: Path) -> None:
    with pytest.raises(CertificateError, match=r"in .*/absent: No such file or directory"):
        write_pair(Pair.named(tmp / "absent", "hosta"), b"certificate", b"key", force=False)

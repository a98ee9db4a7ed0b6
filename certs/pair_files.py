"""Writing a certificate and its key to disk: both or neither, the key never readable by others.

Each file is written and synced under a hidden name in its own directory, then linked to its final name:
unlike rename(2), link(2) cannot replace an existing file.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tunnel.errors import CertificateError

CERTIFICATE_MODE = 0o644
KEY_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate file and the file of its private key, both PEM."""

    cert: Path
    key: Path

    @classmethod
    def named(cls, directory: Path, name: str) -> Pair:
        """Return the pair ``name`` in ``directory``."""
        return cls(directory / f"{name}.pem", directory / f"{name}.key")


def write_pair(pair: Pair, cert: bytes, key: bytes, *, force: bool) -> None:
    """Write both files of ``pair``, the key with mode 0600.

    Raises ``CertificateError`` when a file exists and ``force`` is not given, or when one cannot be written;
    the previous files are then unchanged.
    """
    try:
        with ExitStack() as scratch, ExitStack() as undo:
            staged_key = _stage(pair.key, key, KEY_MODE, scratch)
            staged_cert = _stage(pair.cert, cert, CERTIFICATE_MODE, scratch)
            _publish(staged_key, pair.key, scratch, undo, force=force)
            _publish(staged_cert, pair.cert, scratch, undo, force=force)
            undo.pop_all()
        _sync_directory(pair.cert.parent)
    except FileExistsError as error:
        raise CertificateError(f"{error.filename2} already exists; use --force to replace it") from error
    except OSError as error:
        where = f"{pair.cert.name} and {pair.key.name} in {pair.cert.parent}"
        raise CertificateError(f"cannot write {where}: {error.strerror}") from error


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _stage(path: Path, content: bytes, mode: int, scratch: ExitStack) -> Path:
    """Write ``content`` to a hidden file next to ``path``, which ``scratch`` removes."""
    staged = _hidden(path)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    scratch.callback(staged.unlink, missing_ok=True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return staged


def _publish(staged: Path, path: Path, scratch: ExitStack, undo: ExitStack, *, force: bool) -> None:
    """Link the staged file to its final name; ``undo`` restores the previous file."""
    if not (force and os.path.lexists(path)):
        os.link(staged, path)
        undo.callback(path.unlink)
        return
    previous = _hidden(path)
    os.link(path, previous)
    scratch.callback(previous.unlink, missing_ok=True)
    staged.replace(path)
    undo.callback(previous.replace, path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

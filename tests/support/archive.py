"""Initramfs archives: cpio, format "newc"."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO


class Archive:
    """Writes to ``file``. Parent directories are added automatically; symlinks are followed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self._known: set[str] = {"/"}

    def add(self, path: Path, name: str = "") -> None:
        """Add a file under its own path or as ``name``."""
        status = path.stat()
        self.write(name or str(path), path.read_bytes(), stat.S_IMODE(status.st_mode), int(status.st_mtime))

    def write(self, name: str, content: bytes, mode: int = 0o644, time: int = 0) -> None:
        """Add a file with this content."""
        if name not in self._known:
            self._make_way(Path(name).parent)
            self._entry(name, stat.S_IFREG | mode, time, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link, unless the name exists."""
        if name not in self._known:
            self._make_way(Path(name).parent)
            self._entry(name, stat.S_IFLNK | 0o777, 0, target.encode())

    def close(self) -> None:
        """Write the trailer. The file stays open."""
        self._entry("/TRAILER!!!", 0, 0, b"")

    def _make_way(self, directory: Path) -> None:
        if str(directory) not in self._known:
            self._make_way(directory.parent)
            self._entry(str(directory), stat.S_IFDIR | 0o755, 0, b"")

    def _entry(self, name: str, mode: int, time: int, content: bytes) -> None:
        self._known.add(name)
        self._number += 1
        path = name[1:].encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, time, len(content), 0, 0, 0, 0, len(path), 0)
        self._padded(b"070701" + b"".join(b"%08x" % value for value in fields) + path)
        self._padded(content)

    def _padded(self, data: bytes) -> None:
        self._file.write(data + bytes(-len(data) % 4))

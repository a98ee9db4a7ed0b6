"""A file named by the operator is read completely, or not at all."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from tunnel import files
from tunnel.files import IrregularFileError, read_regular


def test_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link") == b"content"


def test_endless_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(IrregularFileError) as caught:
            read_regular(path)
        assert caught.value.strerror == f"it is {kind}, not a regular file"
        assert caught.value.filename == str(path)


def test_directories_and_sockets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            read_regular(tmp_path / "sock")


def test_an_invalid_path_is_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(Path("a\0b"))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST", 2**20)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**20)
    assert len(read_regular(tmp_path / "large")) == 2**20
    with (tmp_path / "large").open("ab") as large:
        large.write(b"x")
    with pytest.raises(IrregularFileError, match="it is larger than 1 MiB"):
        read_regular(tmp_path / "large")


def test_pipe_of_a_shell_is_read_where_allowed(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as end:

        def write() -> None:
            end.write(b"content")
            end.close()

        slow = threading.Timer(0.05, write)
        slow.start()
        assert read_regular(Path(f"/proc/self/fd/{reader}"), pipes=True) == b"content"
        slow.join()
    os.mkfifo(tmp_path / "fifo")
    assert read_regular(tmp_path / "fifo", pipes=True) == b"", "it has no writer"

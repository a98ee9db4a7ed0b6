"""Connecting by path is not redirected by symbolic links of other users."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.net.unix_path import ForbiddenSocketError, LinkedPathError, connect, first_link


@pytest.fixture
def listener(tmp: Path) -> Iterator[socket.socket]:
    """A listening socket at ``real/sock``."""
    (tmp / "real").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp}/real/sock")
        listening.listen()
        listening.setblocking(False)
        yield listening


def reached(path: str, never: list[str] | None = None) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        connect(sock, path, never or [])


def test_plain_path_is_connected_to(tmp: Path, listener: socket.socket) -> None:
    reached(f"{tmp}/real/sock")
    reached(f"{tmp}//real/sock", [f"{tmp}/other", f"{tmp}/real"])
    for _ in range(2):
        listener.accept()[0].close()


@pytest.mark.parametrize("path", ["link/sock", "real/link"])
def test_link_is_named_and_not_followed(tmp: Path, listener: socket.socket, path: str) -> None:
    (tmp / "link").symlink_to("real")
    (tmp / "real" / "link").symlink_to("sock")
    with pytest.raises(LinkedPathError) as caught:
        reached(f"{tmp}/{path}")
    link = f"{tmp}/link" if path.startswith("link") else f"{tmp}/real/link"
    assert caught.value.filename == link
    assert first_link(f"{tmp}/{path}") == link
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_dangling_link_is_found_too(tmp: Path) -> None:
    (tmp / "link").symlink_to("nowhere")
    assert first_link(f"{tmp}/link/x/y") == f"{tmp}/link"
    assert first_link(f"{tmp}/nothing/x") is None
    assert first_link(f"{tmp}") is None


def test_forbidden_socket_is_refused_by_any_path(tmp: Path, listener: socket.socket) -> None:
    os.link(f"{tmp}/real/sock", f"{tmp}/other")
    with pytest.raises(ForbiddenSocketError):
        reached(f"{tmp}/other", [f"{tmp}/nothing", f"{tmp}/real/sock"])


@pytest.mark.parametrize(
    ("path", "error"), [("none", FileNotFoundError), ("file", ConnectionRefusedError), ("file/x", OSError)]
)
def test_other_errors_are_those_of_connect(tmp: Path, path: str, error: type[OSError]) -> None:
    (tmp / "file").touch()
    with pytest.raises(error):
        reached(f"{tmp}/{path}")


def test_no_descriptor_stays_open(tmp: Path, listener: socket.socket) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp / "link").symlink_to("real")
    reached(f"{tmp}/real/sock")
    for path in ("link/sock", "real/none", "none/none"):
        with pytest.raises(OSError, match=r"\S"):
            reached(f"{tmp}/{path}")
    assert len(list(Path("/proc/self/fd").iterdir())) == before

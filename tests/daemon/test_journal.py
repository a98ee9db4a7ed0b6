"""The journal: detection of its socket, and reconnection after the journal was stopped and started."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import structlog

from tunnel.daemon import journal as module
from tunnel.daemon.journal import connect, is_journal
from tunnel.daemon.logs import Log

HEADER = "mtunnel\n\n6\n1\n0\n0\n0\n"


@pytest.fixture
def place(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The socket path of a fake journal."""
    monkeypatch.setattr(module, "SOCKET", tmp / "stdout")
    return tmp / "stdout"


def listening(place: Path) -> socket.socket:
    place.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place))
    server.listen()
    server.settimeout(60)
    return server


def received(sock: socket.socket, count: int) -> list[str]:
    """Return the first ``count`` lines."""
    with sock.makefile("r") as lines:
        return [lines.readline().rstrip("\n") for _ in range(count)]


def test_descriptor_is_recognized_by_device_and_inode(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp / "file").open("w") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        assert not is_journal(file.fileno())
    assert not is_journal(10_000)


def test_stream_begins_with_the_header_that_the_journal_expects(place: Path) -> None:
    with listening(place) as server:
        descriptor = connect()
        os.write(descriptor, b"<4>line\n")
        os.close(descriptor)
        with server.accept()[0] as stream, stream.makefile("r") as text:
            assert text.read() == HEADER + "<4>line\n"


def test_missing_journal_is_an_error(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect()


def test_log_continues_after_the_journal_was_stopped_and_started(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = structlog.get_logger()
    with listening(place) as server:
        descriptor = connect()
        before = server.accept()[0]
    status = os.fstat(descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    try:
        with Log(descriptor=descriptor):
            log.info("link up")
            assert received(before, 8)[7:] == ['<6>level=info event="link up"']
            before.close()
            log.warning("link down")
            with listening(place) as server, server.accept()[0] as after:
                assert received(after, 8) == [*HEADER.splitlines(), '<4>level=warning event="link down"']
    finally:
        os.close(descriptor)
        structlog.reset_defaults()

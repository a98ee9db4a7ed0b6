"""The writer of log lines: whatever happens to stderr, ``put`` returns, and lost lines are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemons import until
from tunnel.daemon import log_writer as module
from tunnel.daemon.log_writer import LogWriter

FULL = "No space left on device"


def tell(count: int, reason: str) -> str:
    return f"lost {count}: {reason}"


@contextmanager
def writing(descriptor: int, tick: module.Tick = lambda last: None) -> Iterator[LogWriter]:
    writer = LogWriter(descriptor, tell, tick)
    try:
        yield writer
    finally:
        writer.close(0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def leave(reader: int) -> None:
    """Close the reading end. Its number stays in use, so that the fixture closes no other descriptor."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, reader)
    os.close(null)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.01)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue limit of three lines of ten bytes."""
    monkeypatch.setattr(module, "MOST_QUEUED", 30)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[OSError | None], None]]:
    """Set the error of every write; None for success."""
    write = os.write
    errors: list[OSError | None] = [None]

    def failing(descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "log" and (error := errors[0]):
            raise error
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)

    def set_to(error: OSError | None) -> None:
        errors[0] = error

    yield set_to
    set_to(None)


def fill(descriptor: int) -> int:
    """Fill a pipe; return the number of bytes."""
    os.set_blocking(descriptor, False)
    count = 0
    try:
        while True:
            count += os.write(descriptor, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
        return count


def drain(descriptor: int, count: int) -> None:
    while count:
        count -= len(os.read(descriptor, count))


def read_lines(descriptor: int, count: int) -> list[str]:
    data = b""
    while data.count(b"\n") < count:
        data += os.read(descriptor, 65536)
    return data.decode().splitlines()


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    with writing(pipe[1]) as writer:
        for number in range(1000):
            writer.put(f"line {number}")
        assert read_lines(pipe[0], 1000) == [f"line {number}" for number in range(1000)]


def test_close_writes_the_queued_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file, writing(file.fileno()) as writer:
        for number in range(1000):
            writer.put(f"line {number}")
        writer.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 1000


def test_descriptor_that_is_reused_gets_no_line(tmp_path: Path) -> None:
    mine = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    with writing(mine) as writer:
        os.dup2(os.open(tmp_path / "another", os.O_WRONLY | os.O_CREAT), mine)
        writer.put("line")
        writer.close()
    os.close(mine)
    assert (tmp_path / "log").read_text() == "line\n"
    assert (tmp_path / "another").read_text() == ""


@pytest.mark.usefixtures("small")
def test_pipe_that_is_not_read_does_not_block_callers(pipe: tuple[int, int]) -> None:
    stuffed = fill(pipe[1])
    with writing(pipe[1]) as writer:
        writer.put("first....")
        until(lambda: not writer._queue, "for the thread to block in its write")
        for number in range(1000):
            writer.put(f"line {number:04}")
        drain(pipe[0], stuffed)
        assert read_lines(pipe[0], 5) == [
            *("first....", "line 0000", "line 0001", "line 0002"),
            f"lost 997: {module.SLOW}",
        ]
        writer.put("again")
        assert read_lines(pipe[0], 1) == ["again"]


def test_pipe_made_non_blocking_by_another_process_is_waited_for(pipe: tuple[int, int]) -> None:
    stuffed = fill(pipe[1])
    os.set_blocking(pipe[1], False)
    with writing(pipe[1]) as writer:
        writer.put("line")
        until(lambda: writer._blocked, "for the thread to have tried")
        drain(pipe[0], stuffed)
        assert read_lines(pipe[0], 1) == ["line"]
        until(lambda: not writer._trouble, "for the thread to have noticed")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [28, 5, 32, 9])
def test_error_of_a_write_is_reported_when_writing_works_again(
    pipe: tuple[int, int], fails: Callable[[OSError | None], None], number: int
) -> None:
    fails(OSError(number, os.strerror(number)))
    with writing(pipe[1]) as writer:
        writer.put("first....")
        until(lambda: writer._trouble, "for the first attempt")
        for each in range(5):
            writer.put(f"line {each:04}")
        fails(None)
        assert read_lines(pipe[0], 5) == [
            *("first....", "line 0000", "line 0001", "line 0002"),
            f"lost 2: {os.strerror(number)}",
        ]


def test_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as file, writing(file.fileno()) as writer:
        writer.put("line")
        until(lambda: writer._trouble == FULL, "for the attempt")
        writer.put("line")


def test_pipe_whose_reader_has_closed(pipe: tuple[int, int]) -> None:
    leave(pipe[0])
    with writing(pipe[1]) as writer:
        writer.put("line")
        until(lambda: writer._trouble == "Broken pipe", "for the attempt")
        writer.put("line")


def test_descriptor_whose_reader_has_closed_is_reopened(pipe: tuple[int, int]) -> None:
    """The first attempt fails, the second reader closes as well, the third one stays."""
    leave(pipe[0])
    readers: list[int] = []

    def reopen() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionRefusedError
        reader, writing_end = os.pipe()
        readers.append(reader)
        if len(attempts) == 2:
            os.close(reader)
        return writing_end

    attempts: list[int] = []
    writer = LogWriter(pipe[1], tell, lambda last: None, reopen)
    writer.put("line")
    until(lambda: len(attempts) == 3, "for the third attempt")
    assert read_lines(readers[-1], 1) == ["line"]
    writer.close()
    os.close(readers[-1])


def test_full_disk_does_not_reopen_the_descriptor() -> None:
    def reopen() -> int:
        raise AssertionError

    with Path("/dev/full").open("wb") as file:
        writer = LogWriter(file.fileno(), tell, lambda last: None, reopen)
        writer.put("line")
        until(lambda: writer._trouble == FULL, "for the attempt")
        writer.close(10)
        assert not writer._thread.is_alive()


def test_fifo_with_a_new_reader_gets_the_kept_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    descriptor = os.open(tmp_path / "fifo", os.O_WRONLY)
    with writing(descriptor) as writer:
        os.close(reader)
        writer.put("line")
        until(lambda: writer._trouble, "for the attempt")
        reader = os.open(tmp_path / "fifo", os.O_RDONLY)
        assert read_lines(reader, 1) == ["line"]
    os.close(reader)
    os.close(descriptor)


@pytest.mark.root
def test_partially_written_line_is_completed(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(tmp_path)], check=True)
    try:
        (tmp_path / "other").write_bytes(b"." * 4096)
        with (tmp_path / "log").open("wb") as file, writing(file.fileno()) as writer:
            writer.put("a" * 4000)
            writer.put("b" * 1000)
            until(lambda: writer._trouble == FULL, "for the disk to be full")
            (tmp_path / "other").unlink()
            writer.put("c")
            writer.close()
        lines = (tmp_path / "log").read_text().splitlines()
        assert lines == ["a" * 4000, "b" * 1000, "c"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_long_line_is_truncated(pipe: tuple[int, int]) -> None:
    with writing(pipe[1]) as writer:
        writer.put("ü" * module.LONGEST_LINE)
        [line] = read_lines(pipe[0], 1)
    assert line.endswith("üü [truncated]")
    assert len(line.encode()) < module.LONGEST_LINE


def test_lines_that_could_not_be_formatted_are_counted_in_their_place(pipe: tuple[int, int]) -> None:
    with writing(pipe[1]) as writer:
        writer.put("one")
        writer.lost("formatting failed")
        writer.lost("formatting failed")
        writer.put("two")
        lines = read_lines(pipe[0], 3)
    assert lines[0] == "one"
    assert lines[-1] == "two"
    assert sum(int(line.split()[1].rstrip(":")) for line in lines[1:-1]) == 2


def test_tick_is_called_after_its_interval_and_at_the_end(pipe: tuple[int, int]) -> None:
    calls: list[bool] = []

    def tick(last: bool) -> float | None:
        calls.append(last)
        if last:
            writer.put("last line")
        return 0.001 if len(calls) < 3 else None

    writer: LogWriter
    with writing(pipe[1], tick) as writer:
        until(lambda: len(calls) == 3, "for three calls")
        writer.wake()
        until(lambda: len(calls) == 4, "for one more")
        writer.close()
        assert read_lines(pipe[0], 1) == ["last line"]
    assert calls == [False, False, False, False, True]


def test_close_does_not_wait_for_a_reader_forever(pipe: tuple[int, int]) -> None:
    stuffed = fill(pipe[1])
    with writing(pipe[1]) as writer:
        writer.put("line")
        started = time.monotonic()
        writer.close(0.05)
        assert writer._thread.is_alive()
        assert time.monotonic() - started < 5
        drain(pipe[0], stuffed)
        assert read_lines(pipe[0], 1) == ["line"]
        writer._thread.join(60)
        assert not writer._thread.is_alive()


def test_close_drops_lines_that_cannot_be_written() -> None:
    with Path("/dev/full").open("wb") as file, writing(file.fileno()) as writer:
        writer.put("line")
        writer.close(60)
        assert not writer._thread.is_alive()


def test_process_exits_although_its_thread_is_blocked(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    code = (
        "import sys; from tunnel.daemon.logs import Log\n"
        "import structlog\n"
        "with Log(): structlog.get_logger().info('serving')\n"
        "sys.exit(7)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=pipe[1])
    try:
        assert child.wait(60) == 7
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()

"""Logs: the same events for terminals, files, the journal and programs; logging neither blocks nor fails."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tunnel.daemon import log_rate
from tunnel.daemon.logs import Format, Level, Log
from tunnel.tls import handshake
from tunnel.wire import session


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # pytest's own would be closed
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def logger() -> Any:
    return structlog.get_logger().bind(peer="hostb")


def fail() -> None:
    try:
        raise OSError(5, "disk on fire")
    except OSError:
        logger().exception("lane lost")


def file_gets(path: Path, say: Callable[[], object], level: Level = Level.INFO, **how: Any) -> list[str]:
    """Return the lines in a file after ``say`` has logged."""
    with path.open("wb") as file, Log(level, descriptor=file.fileno(), **how):
        say()
    return path.read_text().splitlines()


def terminal_gets(say: Callable[[], object], **how: Any) -> str:
    """Return the text on a terminal after ``say`` has logged."""
    ours, theirs = pty.openpty()
    try:
        with Log(descriptor=theirs, **how):
            say()
        return os.read(ours, 65536).decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_file_gets_keys_and_values(tmp_path: Path) -> None:
    [line] = file_gets(tmp_path / "log", lambda: logger().info("link up", lanes=2, resumed=False))
    time, rest = line.split(" ", 1)
    assert time.startswith("timestamp=20")
    assert rest == 'level=info event="link up" peer=hostb lanes=2 resumed=false'


def test_a_terminal_gets_colour_unless_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    def say() -> None:
        logger().warning("link lost")

    assert "\x1b[" in terminal_gets(say)
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal_gets(say).split(" ", 1)[1] == "[warning  ] link lost peer=hostb\n"


def test_control_characters_in_facts_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    def say() -> None:
        logger().warning("stream refused", target="unix:/x\x1b]0;title\x07\nfake line\u202e")

    shown = "'unix:/x\ufffd]0;title\ufffd\ufffdfake line\ufffd'"
    line = terminal_gets(say).split(" ", 1)[1]
    assert line == f"[warning  ] stream refused peer=hostb target={shown}\n"


def say_twice() -> None:
    logger().info("link up", path=Path("/run/x"))
    logging.getLogger("asyncio").error("task %s failed", "pump")


def test_programs_get_one_object_per_line(tmp_path: Path) -> None:
    in_file = file_gets(tmp_path / "log", say_twice, style=Format.JSON)
    for lines in (in_file, terminal_gets(say_twice, style=Format.JSON).splitlines()):
        first, second = map(json.loads, lines)
        assert first.pop("timestamp")
        assert first == {"level": "info", "event": "link up", "peer": "hostb", "path": "/run/x"}
        assert second.pop("timestamp")
        assert second == {"level": "error", "event": "task pump failed", "logger": "asyncio"}


def test_the_journal_gets_priorities_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        with Log(Level.DEBUG, descriptor=stream.fileno()):
            logger().debug("frame")
            logger().info("link up")
            logging.getLogger("asyncio").critical("gone")
        stream.seek(0)
        assert stream.read().splitlines() == [
            "<7>level=debug event=frame peer=hostb",
            '<6>level=info event="link up" peer=hostb',
            "<2>level=critical event=gone logger=asyncio",
        ]


def test_output_that_was_redirected_away_from_the_journal_has_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    [line] = file_gets(tmp_path / "log", lambda: logger().info("link up"))
    assert line.startswith("timestamp=")


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        (Level.DEBUG, ["debug", "info", "warning", "error"]),
        (Level.INFO, ["info", "warning", "error"]),
        (Level.WARNING, ["warning", "error"]),
        (Level.ERROR, ["error"]),
    ],
)
def test_levels_apply_to_both_kinds_of_logger(level: Level, heard: list[str], tmp_path: Path) -> None:
    def say() -> None:
        for name in ("debug", "info", "warning", "error"):
            getattr(logger(), name)("ours")
            getattr(logging.getLogger("uvloop"), name)("theirs")

    events = [json.loads(line) for line in file_gets(tmp_path / "log", say, level, style=Format.JSON)]
    assert [event["level"] for event in events if event["event"] == "ours"] == heard
    assert [event["level"] for event in events if event["event"] == "theirs"] == heard


def test_an_exception_is_one_record_in_a_file_and_readable_on_a_terminal(tmp_path: Path) -> None:
    [line] = file_gets(tmp_path / "log", fail)
    assert "disk on fire" in line
    text = terminal_gets(fail)
    assert len(text.splitlines()) > 3
    assert "OSError: [Errno 5] disk on fire" in text


def test_bound_context_reaches_every_event(tmp_path: Path) -> None:
    def say() -> None:
        with structlog.contextvars.bound_contextvars(link=7):
            logger().info("rotate")

    [line] = file_gets(tmp_path / "log", say)
    assert "link=7" in line


def test_a_second_log_replaces_the_first(tmp_path: Path) -> None:
    second: list[str] = []

    def say() -> None:
        second.extend(file_gets(tmp_path / "second", say_twice))

    assert file_gets(tmp_path / "first", say) == []
    assert len(second) == 2


# Rate limits.


def test_repeated_lines_of_one_source_are_summarized_at_the_end(tmp_path: Path) -> None:
    def say() -> None:
        for _ in range(1000):
            logger().warning("connection refused", uid=1000)
        logger().warning("connection refused", uid=0)

    lines = file_gets(tmp_path / "log", say, style=Format.JSON)
    *told, last = map(json.loads, lines)
    assert len(told) == log_rate.TROUBLE.burst + 1
    assert told[-1]["uid"] == 0, "another source is not suppressed"
    assert (last["level"], last["event"], last["of"]) == ("warning", "and 980 more", "connection refused")
    assert (last["count"], last["sources"]) == (980, "peer hostb, uid 1000: 980")


def test_repeated_lines_of_one_source_are_summarized_periodically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_rate, "SUMMARY_INTERVAL", 0.05)
    reader, writer = os.pipe()
    with Log(descriptor=writer), os.fdopen(reader) as lines:
        os.close(writer)
        for _ in range(30):
            logger().warning("connection refused")
        while "and 10 more" not in (line := lines.readline()):
            assert line


def test_records_of_the_standard_library_are_bounded_too(tmp_path: Path) -> None:
    def say() -> None:
        for _ in range(100):
            logging.getLogger("asyncio").error("Task exception was never retrieved")

    lines = file_gets(tmp_path / "log", say)
    assert len(lines) == log_rate.TROUBLE.burst + 1
    assert 'event="and 80 more" of="records of asyncio"' in lines[-1]


# Logging never fails, and handles everything that is written to stderr.


class Sick:
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


@pytest.mark.parametrize("style", list(Format))
def test_fact_that_cannot_be_formatted_is_counted_and_never_raised(tmp_path: Path, style: Format) -> None:
    def say() -> None:
        logger().info("link up", lane=Sick())
        logging.getLogger("asyncio").error("task %s failed", Sick())
        logging.getLogger("asyncio").error("task %s of %s failed", "one")  # noqa: PLE1206  on purpose
        logger().info("link down")

    *lost, last = file_gets(tmp_path / "log", say, style=style)  # in one line or several
    assert lost
    assert all("log lines lost" in line for line in lost)
    assert "ZeroDivisionError" in lost[0]
    assert "link down" in last


def test_text_with_surrogates_is_escaped(tmp_path: Path) -> None:
    path = os.fsdecode(b"/run/\xff")
    [line] = file_gets(tmp_path / "log", lambda: logger().info("serving", path=path))
    assert line.endswith("path=/run/\\udcff")


@pytest.mark.filterwarnings("default")
def test_warnings_about_certificates_of_clients_are_not_logged(tmp_path: Path) -> None:
    """Strangers cause them. ``handshake`` and its room read such certificates."""

    def read() -> None:
        for module in (handshake.__name__, session.__name__):
            warnings.warn_explicit(f"odd, in {module}", UserWarning, "x.py", 1, module)

    [line] = file_gets(tmp_path / "log", read)
    assert "odd, in tunnel.wire.session" in line


@pytest.mark.filterwarnings("default")
def test_output_of_the_interpreter_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mortal:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    def end() -> None:
        raise ValueError("in a thread")

    def say() -> None:
        warnings.warn("a socket was left open", ResourceWarning, stacklevel=1)
        Mortal()
        thread = threading.Thread(target=end, name="lane 1")
        thread.start()
        thread.join()

    hooks = sys.unraisablehook, threading.excepthook
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    warning, ignored, ended = file_gets(tmp_path / "log", say)
    assert "a socket was left open" in warning
    assert "in a finalizer" in ignored
    assert 'thread="lane 1"' in ended
    assert "in a thread" in ended
    assert stderr.getvalue() == ""
    assert (sys.unraisablehook, threading.excepthook) == hooks

"""Logs: the same events for people, for files, for the journal and for programs."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tunnel.daemon.logs import Format, Level, configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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


def test_a_file_gets_keys_and_values() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    logger().info("link up", lanes=2, resumed=False)
    time, rest = stream.getvalue().split(" ", 1)
    assert time.startswith("timestamp=20")
    assert rest == 'level=info event="link up" peer=hostb lanes=2 resumed=false\n'


def test_a_terminal_gets_colour_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    configure(stream=stream)
    logger().warning("link lost")
    assert "\x1b[" in stream.getvalue()
    assert "link lost" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    configure(stream=plain)
    logger().warning("link lost")
    assert plain.getvalue().split(" ", 1)[1] == "[warning  ] link lost peer=hostb\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_programs_get_one_object_per_line(stream: type[io.StringIO]) -> None:
    output = stream()
    configure(style=Format.JSON, stream=output)
    logger().info("link up", path=Path("/run/x"))
    logging.getLogger("asyncio").error("task %s died", "pump")
    first, second = map(json.loads, output.getvalue().splitlines())
    assert first.pop("timestamp")
    assert first == {"level": "info", "event": "link up", "peer": "hostb", "path": "/run/x"}
    assert second.pop("timestamp")
    assert second == {"level": "error", "event": "task pump died", "logger": "asyncio"}


def test_the_journal_gets_priorities_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure(Level.DEBUG, stream=stream)
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
    with (tmp_path / "file").open("w+") as stream:
        configure(stream=stream)
        logger().info("link up")
        stream.seek(0)
        assert stream.read().startswith("timestamp=")


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        (Level.DEBUG, ["debug", "info", "warning", "error"]),
        (Level.INFO, ["info", "warning", "error"]),
        (Level.WARNING, ["warning", "error"]),
        (Level.ERROR, ["error"]),
    ],
)
def test_levels_hold_for_both_kinds_of_logger(level: Level, heard: list[str]) -> None:
    stream = io.StringIO()
    configure(level, Format.JSON, stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logger(), name)("ours")
        getattr(logging.getLogger("uvloop"), name)("theirs")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["level"] for event in events if event["event"] == "ours"] == heard
    assert [event["level"] for event in events if event["event"] == "theirs"] == heard


def test_an_exception_is_one_record_in_a_file_and_readable_on_a_terminal() -> None:
    file, terminal = io.StringIO(), Terminal()
    configure(stream=file)
    fail()
    assert len(file.getvalue().splitlines()) == 1
    assert "disk on fire" in file.getvalue()
    configure(stream=terminal)
    fail()
    assert len(terminal.getvalue().splitlines()) > 3
    assert "OSError: [Errno 5] disk on fire" in terminal.getvalue()


def test_bound_context_reaches_every_event() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    with structlog.contextvars.bound_contextvars(link=7):
        logger().info("rotate")
    assert "link=7" in stream.getvalue()


def test_configuring_again_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure(stream=stream)
    configure()
    logger().info("ours")
    logging.getLogger("asyncio").info("theirs")
    assert stream.getvalue() == ""
    assert len(capsys.readouterr().err.splitlines()) == 2

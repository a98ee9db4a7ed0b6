"""Logging: one line per event on stderr, its facts as keys and values.

Coloured for people on a terminal; ``key=value`` otherwise; JSON on request. Under systemd the journal adds
the time by itself and takes each line's priority from a prefix (sd-daemon(3)).

Take a logger with ``structlog.get_logger()`` and ``bind`` it to what it speaks about: on a bound logger, a
level that is switched off costs one call of an empty function.
"""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""syslog(3)'s, by the names of our levels."""


class Level(StrEnum):
    """The least important event that is still written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    """``auto``: what fits stderr, a terminal, the journal or a file. ``json``: one object per line."""

    AUTO = "auto"
    JSON = "json"


def configure(level: Level = Level.INFO, style: Format = Format.AUTO, stream: TextIO | None = None) -> None:
    """Send events from ``level`` up to ``stream`` (stderr), those of the standard library's logging too."""
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    prepare, render = _prepare(style, stream), _render(style, stream)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *prepare, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *prepare],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=threshold, handlers=[handler], force=True)


def _prepare(style: Format, stream: TextIO) -> list[Processor]:
    """Add what every event has: level, time unless the journal knows it, and an exception's traceback."""
    steps: list[Processor] = [structlog.processors.add_log_level]
    if style is Format.AUTO and stream.isatty():
        return [*steps, structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
    if style is Format.JSON or not _is_journal(stream):
        steps.append(structlog.processors.TimeStamper(fmt="iso"))
    return [*steps, structlog.processors.format_exc_info]


def _render(style: Format, stream: TextIO) -> Processor:
    if style is Format.JSON:
        return structlog.processors.JSONRenderer(default=str)
    if stream.isatty():
        return structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ,  # no-color.org
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
        )
    pairs = structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
    )
    return _with_priority(pairs) if _is_journal(stream) else pairs


def _with_priority(render: Processor) -> Processor:
    def prefixed(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = _PRIORITIES[event["level"]]
        return f"<{priority}>{render(logger, name, event)!s}"

    return prefixed


def _is_journal(stream: TextIO) -> bool:
    """JOURNAL_STREAM names the journal's socket by device and inode (systemd.exec(5)).

    Comparing tells whether this very stream goes there: children with redirected output inherit the variable.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

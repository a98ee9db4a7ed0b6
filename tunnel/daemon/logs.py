"""Logging: one line per event on stderr, its facts as keys and values.

Coloured for people on a terminal; ``key=value`` otherwise; JSON on request. Under systemd the journal adds
the time by itself and takes each line's priority from a prefix (sd-daemon(3)).

Take a logger with ``structlog.get_logger()`` and ``bind`` it to what it speaks about: on a bound logger, a
level that is switched off costs one call of an empty function.

Whoever logs neither waits nor fails: ``log_writer`` has a thread that writes. How often an event may be
logged is bounded for each source of it (``log_rate``): its ``peer``, ``uid`` and ``remote`` (an address with
a port).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from enum import StrEnum
from typing import Self

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from tunnel.daemon import journal
from tunnel.daemon.journal import is_journal
from tunnel.daemon.log_rate import Limiter, source_of
from tunnel.daemon.log_writer import LogWriter
from tunnel.wire.text import printable

STDERR = 2

log = structlog.get_logger()

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


class Log:
    """Takes events from ``level`` up to ``descriptor`` until ``close``, on any thread.

    Those of the standard library's logging too, warnings, and what the interpreter would itself write to
    stderr, and wait for it: exceptions that end a thread, and those that have nobody to go to.
    """

    def __init__(
        self, level: Level = Level.INFO, style: Format = Format.AUTO, descriptor: int = STDERR
    ) -> None:
        self._steps = (*_prepare(style, descriptor), _render(style, descriptor))
        self._limiter = Limiter()
        self._lock = threading.RLock()  # of the limiter; a finalizer that runs meanwhile may log, too
        reopen = journal.connect if is_journal(descriptor) else None
        self._writer = LogWriter(descriptor, self._word_lost, self._tick, reopen)
        threshold = logging.getLevelNamesMapping()[level.upper()]
        queue = _LogQueue(self._writer.put)
        structlog.configure(
            processors=[self._process],
            wrapper_class=structlog.make_filtering_bound_logger(threshold),
            logger_factory=lambda *_: queue,
        )
        logging.basicConfig(level=threshold, handlers=[_Handler(self._take)], force=True)
        logging.captureWarnings(capture=True)
        warnings.filterwarnings("ignore", module=r"tunnel\.transport")  # strangers' certificates may be odd
        self._hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook, threading.excepthook = _log_unraisable, _log_end_of_thread

    def close(self) -> None:
        """Write what is queued, for two seconds at most. What is logged from now on is dropped."""
        sys.unraisablehook, threading.excepthook = self._hooks
        logging.captureWarnings(capture=False)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _process(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        """Make an event a line. Raises DropEvent when there are too many like it, and nothing else."""
        line = None
        if self._admits(str(event["event"]), name, source_of(event)):
            line = self._word(name, lambda: structlog.contextvars.merge_contextvars(logger, name, event))
        if line is None:
            raise structlog.DropEvent
        return line

    def _take(self, record: logging.LogRecord) -> None:
        """Log what came by the standard library's logging."""
        name = record.levelname.lower()
        if not self._admits(f"records of {record.name}", name, ""):
            return
        line = self._word(
            name,
            lambda: {"event": record.getMessage(), "logger": record.name, "exc_info": record.exc_info},
        )
        if line is not None:
            self._writer.put(line)

    def _admits(self, event: str, level: str, source: str) -> bool:
        """Whether this one is logged; if not, it is counted."""
        with self._lock:
            admitted, begins = self._limiter.admits(event, level, source, time.monotonic())
        if begins:
            self._writer.wake()
        return admitted

    def _word(self, name: str, facts: Callable[[], EventDict]) -> str | None:
        """Make a line; None when that fails, and then it is counted."""
        try:
            done: object = facts()
            for step in self._steps:
                done = step(None, name, done)  # type: ignore[arg-type]  # only the last one's is no dict
        except Exception as error:  # noqa: BLE001  whatever a fact's __str__ raises: no caller is prepared for it
            self._writer.lost(f"they could not be worded: {type(error).__name__}")
            return None
        return str(done)

    # On the writer's thread.

    def _word_lost(self, count: int, reason: str) -> str:
        facts = {"event": "log lines lost", "count": count, "reason": reason}
        return str(self._word("warning", lambda: facts))

    def _tick(self, last: bool) -> float | None:
        """Log how many events were held back, where that is due; the seconds until it is again."""
        now = time.monotonic()
        with self._lock:
            summaries = self._limiter.summaries(now, early=last)
            due = self._limiter.due(now)
        for level, facts in summaries:
            if (line := self._word(level, facts.copy)) is not None:
                self._writer.put(line)
        return due


class _LogQueue:
    """What structlog hands a line to, by the name of its level."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = put


class _Handler(logging.Handler):
    """Hands records on."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        self._take(record)


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    """An exception that could not be raised, for example in a finalizer."""
    log.error("exception ignored", where=repr(found.object), exc_info=found.exc_value)


def _log_end_of_thread(found: threading.ExceptHookArgs) -> None:
    """An exception that ended a thread."""
    name = found.thread.name if found.thread else "unknown"
    log.error("thread failed", thread=name, exc_info=found.exc_value)


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Whoever wrote a fact, it drives no terminal. An event may have several lines: it is a program's own."""
    for key, fact in event.items():
        if isinstance(fact, str) and not fact.isprintable():
            text = fact.encode(errors="backslashreplace").decode()  # the file name may be no Unicode
            event[key] = "\n".join(map(printable, text.split("\n"))) if key == "event" else printable(text)
    return event


def _prepare(style: Format, descriptor: int) -> list[Processor]:
    """Add what every event has: level, time unless the journal knows it, and an exception's traceback."""
    steps: list[Processor] = [_plain, structlog.processors.add_log_level]
    if style is Format.AUTO and os.isatty(descriptor):
        return [*steps, structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
    if style is Format.JSON or not is_journal(descriptor):
        steps.append(structlog.processors.TimeStamper(fmt="iso"))
    return [*steps, structlog.processors.format_exc_info]


def _render(style: Format, descriptor: int) -> Processor:
    if style is Format.JSON:
        return structlog.processors.JSONRenderer(default=str)
    if os.isatty(descriptor):
        return structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ,  # no-color.org
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
        )
    pairs = structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
    )
    return _with_priority(pairs) if is_journal(descriptor) else pairs


def _with_priority(render: Processor) -> Processor:
    def prefixed(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = _PRIORITIES[event["level"]]
        return f"<{priority}>{render(logger, name, event)!s}"

    return prefixed

"""Logging: one line per event on stderr, with its facts as keys and values.

Coloured on a terminal; ``key=value`` otherwise; JSON on request. Under systemd the journal adds the time and
takes the priority of each line from a prefix (sd-daemon(3)).

Get a logger with ``structlog.get_logger()`` and ``bind`` its context: on a bound logger, a disabled level
costs one call of an empty function.

Logging neither blocks nor fails: ``log_writer`` writes on a thread. The rate of an event is limited for each
source (``log_rate``): its ``peer``, ``uid`` and ``remote`` (an address with a port).
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
"""syslog(3) priorities by level."""


class Level(StrEnum):
    """The minimum level of the events that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    """``auto``: depends on stderr, a terminal, the journal or a file. ``json``: one object per line."""

    AUTO = "auto"
    JSON = "json"


class Log:
    """Writes events of ``level`` and above to ``descriptor`` until ``close``. Thread-safe.

    Includes the standard library's logging, warnings, and what the interpreter would write to stderr, and
    block on: exceptions that end a thread, and unraisable exceptions.
    """

    def __init__(
        self, level: Level = Level.INFO, style: Format = Format.AUTO, descriptor: int = STDERR
    ) -> None:
        self._steps = (*_prepare(style, descriptor), _render(style, descriptor))
        self._limiter = Limiter()
        self._lock = threading.RLock()  # of the limiter; reentrant, as a finalizer may log meanwhile
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
        warnings.filterwarnings("ignore", module=r"tunnel\.tls")  # about certificates of clients
        self._hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook, threading.excepthook = _log_unraisable, _log_end_of_thread

    def close(self) -> None:
        """Write the queued lines, for two seconds at most. Later events are dropped."""
        sys.unraisablehook, threading.excepthook = self._hooks
        logging.captureWarnings(capture=False)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _process(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        """Format an event as a line. Raises only DropEvent, when the rate limit is exceeded."""
        line = None
        if self._admits(str(event["event"]), name, source_of(event)):
            line = self._word(name, lambda: structlog.contextvars.merge_contextvars(logger, name, event))
        if line is None:
            raise structlog.DropEvent
        return line

    def _take(self, record: logging.LogRecord) -> None:
        """Log a record of the standard library's logging."""
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
        """Whether the event is logged; if not, it is counted."""
        with self._lock:
            admitted, begins = self._limiter.admits(event, level, source, time.monotonic())
        if begins:
            self._writer.wake()
        return admitted

    def _word(self, name: str, facts: Callable[[], EventDict]) -> str | None:
        """Format a line; on failure count it as lost and return None."""
        try:
            done: object = facts()
            for step in self._steps:
                done = step(None, name, done)  # type: ignore[arg-type]  # only the last returns no dict
        except Exception as error:  # noqa: BLE001  whatever a fact's __str__ raises: no caller handles it
            self._writer.lost(f"formatting failed: {type(error).__name__}")
            return None
        return str(done)

    # On the writer's thread.

    def _word_lost(self, count: int, reason: str) -> str:
        facts = {"event": "log lines lost", "count": count, "reason": reason}
        return str(self._word("warning", lambda: facts))

    def _tick(self, last: bool) -> float | None:
        """Log the pending summaries of suppressed events; return the seconds until the next one."""
        now = time.monotonic()
        with self._lock:
            summaries = self._limiter.summaries(now, early=last)
            due = self._limiter.due(now)
        for level, facts in summaries:
            if (line := self._word(level, facts.copy)) is not None:
                self._writer.put(line)
        return due


class _LogQueue:
    """The logger of structlog, with a method for each level: queues the line."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = put


class _Handler(logging.Handler):
    """Passes records to ``take``."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        self._take(record)


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    """Log an exception that could not be raised, for example in a finalizer."""
    log.error("exception ignored", where=repr(found.object), exc_info=found.exc_value)


def _log_end_of_thread(found: threading.ExceptHookArgs) -> None:
    """Log an exception that ended a thread."""
    name = found.thread.name if found.thread else "unknown"
    log.error("thread failed", thread=name, exc_info=found.exc_value)


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape control characters in facts, as they may be remote input. An event may have several lines."""
    for key, fact in event.items():
        if isinstance(fact, str) and not fact.isprintable():
            text = fact.encode(errors="backslashreplace").decode()  # file names may have surrogates
            event[key] = "\n".join(map(printable, text.split("\n"))) if key == "event" else printable(text)
    return event


def _prepare(style: Format, descriptor: int) -> list[Processor]:
    """Return the steps that add level, time (except for the journal) and an exception's traceback."""
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

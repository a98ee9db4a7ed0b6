"""A bounded queue of log lines and a thread that writes them: logging never blocks and never fails.

The thread writes to a duplicate of the descriptor: no line goes to a file or a socket that later reuses its
number. A line that cannot be written (a full disk, a pipe without a reader) is retried; a descriptor that is
not writable (a pipe that is not read) blocks only the thread. When the queue is full, lines are lost: they
are counted, and a line in their place reports how many, and why.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

MOST_QUEUED = 1024 * 1024
"""Bytes of queued lines."""

LONGEST_LINE = 16 * 1024
"""Bytes; longer lines are truncated."""

RETRY_INTERVAL = 0.5
"""Seconds between two attempts to write a line after an error."""

CLOSE_TIMEOUT = 2.0
"""Seconds that ``close`` waits for the queued lines to be written."""

_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}

SLOW = "stderr is blocked"

Tick: TypeAlias = Callable[[bool], float | None]
"""Called on the thread when the queue is empty; with True once, before the thread ends. It may ``put`` lines.
Returns the seconds until the next call, None for the next line or ``wake``."""


@dataclass(slots=True)
class _Lost:
    """A placeholder in the queue for lost lines."""

    count: int
    reason: str


class LogWriter:
    """Writes to a duplicate of ``descriptor``. ``tell`` formats the line that reports lost lines.

    ``reopen`` opens a descriptor to replace one whose reader has closed, or raises OSError. All methods are
    thread-safe.
    """

    def __init__(
        self,
        descriptor: int,
        tell: Callable[[int, str], str],
        tick: Tick,
        reopen: Callable[[], int] | None = None,
    ) -> None:
        self._descriptor = os.dup(descriptor)
        self._reopen = reopen
        self._tell = tell
        self._tick = tick
        self._queue: deque[bytes | _Lost] = deque()
        self._queued = 0  # bytes
        self._line = self._rest = b""  # the line being written, and the rest of it
        self._gone = False  # the reader has closed
        self._trouble = ""  # why the last attempt failed; empty after a success
        self._blocked = False  # it failed with EAGAIN
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._woken = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line, without its newline, or count it as lost. Never blocks, never raises."""
        data = _encode(line)
        with self._changed:
            if self._queued + len(data) > MOST_QUEUED:
                self._count_lost(self._trouble or SLOW)
            else:
                self._queue.append(data)
                self._queued += len(data)
            self._changed.notify()

    def lost(self, reason: str) -> None:
        """Count a line that could not be formatted."""
        with self._changed:
            self._count_lost(reason)
            self._changed.notify()

    def wake(self) -> None:
        """Make the thread call ``tick``."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def close(self, within: float = CLOSE_TIMEOUT) -> None:
        """Write the queued lines, for ``within`` seconds at most, and end the thread.

        A line that cannot be written now is dropped; a thread that is blocked is abandoned.
        """
        self._closing.set()
        self.wake()
        self._thread.join(within)

    def _count_lost(self, reason: str) -> None:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Lost):
            last.count += 1
        else:
            self._queue.append(_Lost(1, reason))

    # On the thread.

    def _run(self) -> None:
        last = False
        while not last:
            last = self._closing.is_set()
            self._wait(self._tick(last), at_most_once=last)
            if not self._write_queued():
                break
        with suppress(OSError):
            os.close(self._descriptor)

    def _wait(self, seconds: float | None, *, at_most_once: bool) -> None:
        """Return when there is something to do, or after ``seconds``."""
        with self._changed:
            if not (self._queue or self._woken or at_most_once):
                self._changed.wait(seconds)
            self._woken = False

    def _write_queued(self) -> bool:
        """Write until the queue is empty; return False when writing was abandoned because of ``close``."""
        while self._rest or self._take():
            if self._write():
                continue
            if self._closing.is_set() and not self._blocked:
                return False
            if not self._reopened():
                self._pause()
        return True

    def _take(self) -> bool:
        """Take the next line from the queue; return False when it is empty."""
        with self._changed:
            if not self._queue:
                return False
            first = self._queue.popleft()
            if isinstance(first, bytes):
                self._queued -= len(first)
        self._line = first if isinstance(first, bytes) else _encode(self._tell(first.count, first.reason))
        self._rest = self._line
        return True

    def _write(self) -> bool:
        """Write the line, or the rest of it. On failure keep the reason and return False."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]
        except BlockingIOError:
            self._trouble, self._blocked = SLOW, True
            return False
        except OSError as error:
            self._trouble, self._blocked = error.strerror or str(error), False
            self._gone = error.errno in _GONE
            return False
        self._trouble, self._blocked, self._gone = "", False, False
        return True

    def _reopened(self) -> bool:
        """Reopen the descriptor if its reader has closed, and restart the line. Whether it succeeded."""
        if self._reopen is None or not self._gone:
            return False
        try:
            descriptor = self._reopen()
        except OSError:
            return False
        os.close(self._descriptor)
        self._descriptor, self._rest, self._gone = descriptor, self._line, False
        return True

    def _pause(self) -> None:
        """Wait until another attempt makes sense."""
        if self._blocked:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll(RETRY_INTERVAL * 1000)
        else:
            self._closing.wait(RETRY_INTERVAL)


def _encode(line: str) -> bytes:
    """Return the line with its newline, truncated to LONGEST_LINE; surrogates are escaped."""
    data = line.encode(errors="backslashreplace")
    if len(data) >= LONGEST_LINE:
        data = data[: LONGEST_LINE - 16].decode(errors="ignore").encode() + b" [truncated]"
    return data + b"\n"

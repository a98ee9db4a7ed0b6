"""A bounded queue of log lines, and the thread that writes them: who logs never waits and never fails.

The thread writes to a descriptor of its own, a duplicate: whatever happens to the descriptor it came from, no
line goes to a file or a socket that got its number later. A line that cannot be written (a full disk, a pipe
without a reader) is tried again; one that the descriptor does not take yet (a pipe that nobody reads) holds
up the thread alone. When the queue is full, lines are lost: they are counted, and a line in their place says
how many, and why.
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
"""Bytes of lines that may wait."""

LONGEST_LINE = 16 * 1024
"""Bytes; what is behind them is cut off."""

RETRY_INTERVAL = 0.5
"""Seconds between two attempts to write a line that could not be written."""

CLOSE_TIMEOUT = 2.0
"""Seconds that ``close`` waits for the lines that are queued."""

_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}

SLOW = "stderr did not take them in time"

Tick: TypeAlias = Callable[[bool], float | None]
"""Called on the thread when nothing is queued; with True once, before it ends. It may ``put`` lines. Returns
the seconds after which it wants to be called again, None for when the next line or ``wake`` comes."""


@dataclass(slots=True)
class _Lost:
    """Stands in the queue in place of lines."""

    count: int
    reason: str


class LogWriter:
    """Writes to a duplicate of ``descriptor``. ``tell`` words how many lines were lost, and why.

    ``reopen`` opens another descriptor in place of one whose reader is gone, or raises OSError. Each method
    may be called on any thread.
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
        self._line = self._rest = b""  # what is being written, and what is left of it
        self._gone = False  # the reader is
        self._trouble = ""  # why the last attempt failed; empty after one that did not
        self._blocked = False  # it failed because the descriptor takes nothing yet
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
        """Count a line that could not even be worded."""
        with self._changed:
            self._count_lost(reason)
            self._changed.notify()

    def wake(self) -> None:
        """Let the thread call ``tick``."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def close(self, within: float = CLOSE_TIMEOUT) -> None:
        """Write what is queued, for ``within`` seconds at most, and end the thread.

        A line that cannot be written now is given up; a thread that waits for a reader is left behind.
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
        """Write until nothing is queued; False when that was given up because the writer is to end."""
        while self._rest or self._take():
            if self._write():
                continue
            if self._closing.is_set() and not self._blocked:
                return False
            if not self._reopened():
                self._pause()
        return True

    def _take(self) -> bool:
        """Make the first of the queue the line to be written; False when there is none."""
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
        """Write the line, or go on with it. False, and the reason kept, when that fails."""
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
        """Whether there is another descriptor now; the line begins anew there."""
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
    """Return the line with its newline, cut to LONGEST_LINE; what UTF-8 cannot say is escaped."""
    data = line.encode(errors="backslashreplace")
    if len(data) >= LONGEST_LINE:
        data = data[: LONGEST_LINE - 16].decode(errors="ignore").encode() + b" [cut off]"
    return data + b"\n"

"""Workers: threads, each with an event loop, that carry whole streams from the first byte to the last.

Worker 0 is the loop of the daemon itself, so that with one worker there is no other thread. What a worker
owns (links with their session, lanes, streams and pumps) is not touched by other threads, which use
``Worker.call``, ``Worker.send`` and ``loops.post``; they may also read counters.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from tunnel.errors import UnreachableError
from tunnel.relay.link import Link
from tunnel.relay.loops import post
from tunnel.relay.status_schema import WorkerState, WorkerStatus
from tunnel.wire.codes import Code

BEAT = 1.0
"""Interval in seconds of the heartbeat of workers."""

SILENT = 5.0
"""Seconds without a heartbeat after which a worker counts as unresponsive and gets no more streams."""

START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
"""Seconds that a worker's thread may take to start, and to stop."""

DROP_TIMEOUT = 3.0
"""Seconds for sending GOAWAY to peers after a worker has failed: longer than a lane lingers."""

_T = TypeVar("_T")

log = structlog.get_logger()


class WorkerError(UnreachableError):
    """The worker has ended, with all that it carried."""


class Worker:
    """One loop. ``links`` are changed in its thread only. ``lost`` is called with the reason why it ended."""

    def __init__(self, number: int, lost: Callable[[Worker, str], None] | None = None) -> None:
        self.number = number
        self.links: dict[Link, None] = {}
        self.loop = asyncio.get_running_loop()  # for number 0; others set their own when started
        self.alive = True
        self.answers = True
        self.heard = time.monotonic()
        self._lost = lost
        self._asked: set[concurrent.futures.Future[Any]] = set()  # calls that the main thread awaits
        self._sent: set[asyncio.Future[object]] = set()
        self._begun: asyncio.Future[None] = self.loop.create_future()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None

    @property
    def fit(self) -> bool:
        """Whether it can be used: running and responsive."""
        return self.alive and self.answers

    @property
    def state(self) -> WorkerState:
        """Its state, for ``status``."""
        if not self.alive:
            return WorkerState.ENDED
        return WorkerState.SERVING if self.answers else WorkerState.SILENT

    # For the main thread.

    async def start(self) -> None:
        """Start the thread, and wait until its loop runs."""
        home = self.loop
        self._thread = threading.Thread(
            target=self._run, args=(home,), name=f"worker {self.number}", daemon=True
        )
        self._thread.start()
        async with asyncio.timeout(START_TIMEOUT):
            await self._begun
        self.heard = time.monotonic()

    async def stop(self) -> None:
        """Stop the loop and the thread once pending sends are done; streams left are reset."""
        if self._sent and self.fit:
            await asyncio.wait(self._sent, timeout=DROP_TIMEOUT)
        post(self.loop, self._stopping.set)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_TIMEOUT)

    async def call(self, work: Callable[..., Coroutine[None, None, _T]], *args: object) -> _T:
        """Run ``work`` in the worker's loop, and return or raise its result. WorkerError if the worker ends.

        If the caller is cancelled, ``work`` still runs to its end.
        """
        if self._thread is None:
            return await work(*args)
        if not self.alive:
            raise WorkerError(self._words)
        begun = work(*args)
        try:
            asked = asyncio.run_coroutine_threadsafe(begun, self.loop)
        except RuntimeError:
            begun.close()
            raise WorkerError(self._words) from None
        self._asked.add(asked)
        try:
            return await asyncio.shield(asyncio.wrap_future(asked))
        except asyncio.CancelledError:
            if asked.cancelled():
                raise WorkerError(self._words) from None
            raise
        except (SystemExit, KeyboardInterrupt):  # ends that thread only
            raise WorkerError(self._words) from None
        finally:
            self._asked.discard(asked)

    def send(self, work: Callable[..., Coroutine[None, None, object]], *args: object) -> None:
        """Like ``call``, without waiting for the result."""
        sent = asyncio.ensure_future(self.call(work, *args))
        self._sent.add(sent)
        sent.add_done_callback(self._arrived)

    def _arrived(self, sent: asyncio.Future[object]) -> None:
        self._sent.discard(sent)
        if not sent.cancelled() and isinstance(error := sent.exception(), Exception):
            log.debug("a worker did not do what was sent", worker=self.number, reason=str(error))

    def forsake(self) -> None:
        """Mark the worker as ended, and cancel pending calls."""
        self.alive = False
        for asked in list(self._asked):
            asked.cancel()

    @property
    def _words(self) -> str:
        return f"worker {self.number} of this daemon has ended"

    # In the worker's thread.

    def beat(self) -> None:
        """Record a heartbeat."""
        self.heard = time.monotonic()

    def _run(self, home: asyncio.AbstractEventLoop) -> None:
        reason = ""
        try:
            with asyncio.Runner(loop_factory=type(home)) as runner:
                try:
                    runner.run(self._serve(home))
                except BaseException as error:  # noqa: BLE001  the daemon continues without it
                    reason = f"{error!r}"
                runner.run(self._drop(reason))
        except BaseException as error:  # noqa: BLE001  a thread has no caller
            reason = reason or f"{error!r}"
        if reason and self._lost is not None:
            post(home, self._lost, self, reason)

    async def _serve(self, home: asyncio.AbstractEventLoop) -> None:
        self.loop = asyncio.get_running_loop()
        post(home, self._begin)
        await self._stopping.wait()

    def _begin(self) -> None:
        if not self._begun.done():
            self._begun.set_result(None)

    async def _drop(self, reason: str) -> None:
        """Close all links: hypervisors must see a failure rather than a hang."""
        self.alive = False
        why = f"worker {self.number} on {{}} has ended: {reason}"
        ends = [link.close(Code.INTERNAL, why.format(link.plan.host)) for link in self.links]
        self.links.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(DROP_TIMEOUT):
                await asyncio.gather(*ends, return_exceptions=True)  # whatever fails in one


class Workers:
    """All workers. ``told`` is called with an event and its reason, ``lost`` with a worker that ended."""

    def __init__(self, count: int, told: Callable[[str, str], None] | None = None) -> None:
        self._told = told
        self.lost: list[Callable[[Worker], None]] = []
        self.all = [Worker(0), *(Worker(number, self._ended) for number in range(1, count))]
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self.all)

    @property
    def main(self) -> Worker:
        """The daemon's own loop."""
        return self.all[0]

    @property
    def fit(self) -> list[Worker]:
        """The workers that can be used."""
        return [worker for worker in self.all if worker.fit]

    async def start(self) -> None:
        """Start their threads, and monitor them."""
        if len(self.all) > 1:
            await asyncio.gather(*(worker.start() for worker in self.all[1:]))
            self._task = asyncio.create_task(self._watch(), name="workers")

    async def stop(self) -> None:
        """Stop all workers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.all[1:]))

    def facts(self) -> list[WorkerStatus]:
        """Return the status of all workers."""
        return [
            {
                "worker": worker.number,
                "state": worker.state,
                "sessions": sum(link.session is not None for link in list(worker.links)),
                "streams": sum(len(link.streams.pumps) for link in list(worker.links)),
            }
            for worker in self.all
        ]

    async def _watch(self) -> None:
        others = self.all[1:]
        while True:
            asked = time.monotonic()
            for worker in others:
                post(worker.loop, worker.beat)
            await asyncio.sleep(BEAT)
            for worker in others:
                if worker.alive:
                    self._judge(worker, asked)

    def _judge(self, worker: Worker, asked: float) -> None:
        """Report once that a worker has no heartbeat since ``asked``, and once that it answers again."""
        late = asked - worker.heard
        if worker.answers and late > SILENT:
            worker.answers = False
            self._tell("a worker does not answer", f"worker {worker.number}: no heartbeat for {late:.0f} s")
        elif not worker.answers and late <= 0:
            worker.answers = True
            log.info("a worker answers again", worker=worker.number)

    def _ended(self, worker: Worker, reason: str) -> None:
        worker.forsake()
        self._tell("a worker has ended", f"worker {worker.number} and its streams: {reason}")
        for hear in self.lost:
            hear(worker)

    def _tell(self, what: str, reason: str) -> None:
        log.error(what, reason=reason)
        if self._told is not None:
            self._told(what, reason)

"""Workers: threads with an event loop each, that carry whole streams from their first byte to their end.

Worker 0 is the loop of the daemon itself, so that with one worker there is no other thread. What one of them
owns (a link with its session, lanes, streams and pumps) no other thread touches. The ways from one thread to
another are ``Worker.call``, ``Worker.send`` and ``loops.post``; others may read counters beside that.
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
from tunnel.wire.codes import Code

BEAT = 1.0
"""Seconds between two signs of life that a worker is asked for."""

SILENT = 5.0
"""Seconds without one after which a worker is said not to answer, and gets no more streams."""

START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
"""Seconds that a worker's thread may take to begin, and to end."""

DROP_TIMEOUT = 3.0
"""Seconds that peers have to hear that a worker has ended: longer than a lane lingers."""

_T = TypeVar("_T")

log = structlog.get_logger()


class WorkerError(UnreachableError):
    """The worker that was asked has ended, and all that it carried with it."""


class Worker:
    """One loop. ``links`` are changed in its thread only. ``lost`` is told, in its thread, why that ended."""

    def __init__(self, number: int, lost: Callable[[Worker, str], None] | None = None) -> None:
        self.number = number
        self.links: dict[Link, None] = {}
        self.loop = asyncio.get_running_loop()  # of number 0; another one has its own once it has begun
        self.alive = True
        self.answers = True
        self.heard = time.monotonic()
        self._lost = lost
        self._asked: set[concurrent.futures.Future[Any]] = set()  # what the main thread waits for
        self._sent: set[asyncio.Future[object]] = set()
        self._begun: asyncio.Future[None] = self.loop.create_future()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None

    @property
    def fit(self) -> bool:
        """Whether it may be given something to do."""
        return self.alive and self.answers

    # For the main thread.

    async def start(self) -> None:
        """Begin the thread, and return when its loop runs."""
        home = self.loop
        self._thread = threading.Thread(
            target=self._run, args=(home,), name=f"worker {self.number}", daemon=True
        )
        self._thread.start()
        async with asyncio.timeout(START_TIMEOUT):
            await self._begun
        self.heard = time.monotonic()

    async def stop(self) -> None:
        """End the loop and the thread, once what was sent is done; what it still carries is reset."""
        if self._sent and self.fit:
            await asyncio.wait(self._sent, timeout=DROP_TIMEOUT)
        post(self.loop, self._stopping.set)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_TIMEOUT)

    async def call(self, work: Callable[..., Coroutine[None, None, _T]], *args: object) -> _T:
        """Run ``work`` in the worker's loop; what it returns or raises. WorkerError when the worker ends.

        ``work`` goes on to its end there if the caller is cancelled.
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
        except (SystemExit, KeyboardInterrupt):  # this ends its thread, and no other
            raise WorkerError(self._words) from None
        finally:
            self._asked.discard(asked)

    def send(self, work: Callable[..., Coroutine[None, None, object]], *args: object) -> None:
        """As ``call``, and nobody waits for the outcome."""
        sent = asyncio.ensure_future(self.call(work, *args))
        self._sent.add(sent)
        sent.add_done_callback(self._arrived)

    def _arrived(self, sent: asyncio.Future[object]) -> None:
        self._sent.discard(sent)
        if not sent.cancelled() and isinstance(error := sent.exception(), Exception):
            log.debug("a worker did not do what was sent", worker=self.number, reason=str(error))

    def forsake(self) -> None:
        """The thread has ended: let nobody wait for it."""
        self.alive = False
        for asked in list(self._asked):
            asked.cancel()

    @property
    def _words(self) -> str:
        return f"worker {self.number} of this daemon has ended"

    # In the worker's thread.

    def beat(self) -> None:
        """A sign of life."""
        self.heard = time.monotonic()

    def _run(self, home: asyncio.AbstractEventLoop) -> None:
        reason = ""
        try:
            with asyncio.Runner(loop_factory=type(home)) as runner:
                try:
                    runner.run(self._serve(home))
                except BaseException as error:  # noqa: BLE001  the daemon goes on without it
                    reason = f"{error!r}"
                runner.run(self._drop(reason))
        except BaseException as error:  # noqa: BLE001  a thread has nobody to tell
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
        """Reset what is left: hypervisors must see a failure rather than silence."""
        self.alive = False
        why = f"worker {self.number} on {{}} has ended: {reason}"
        ends = [link.close(Code.INTERNAL, why.format(link.plan.host)) for link in self.links]
        self.links.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(DROP_TIMEOUT):
                await asyncio.gather(*ends, return_exceptions=True)  # whatever is wrong with one


class Workers:
    """All of them. ``told`` hears what went wrong, in words, and ``lost`` which one has ended."""

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
        """Those that may be given something to do."""
        return [worker for worker in self.all if worker.fit]

    async def start(self) -> None:
        """Begin their threads, and watch over them."""
        if len(self.all) > 1:
            await asyncio.gather(*(worker.start() for worker in self.all[1:]))
            self._task = asyncio.create_task(self._watch(), name="workers")

    async def stop(self) -> None:
        """End them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.all[1:]))

    def facts(self) -> list[dict[str, Any]]:
        """For ``status``; the keys are stable."""
        return [
            {
                "worker": worker.number,
                "state": "ended" if not worker.alive else "serving" if worker.answers else "does not answer",
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
        """Say once that a worker does not answer what it was ``asked``, and once that it does again."""
        late = asked - worker.heard
        if worker.answers and late > SILENT:
            worker.answers = False
            self._tell("a worker does not answer", f"worker {worker.number}, for {late:.0f} seconds")
        elif not worker.answers and late <= 0:
            worker.answers = True
            log.info("a worker answers again", worker=worker.number)

    def _ended(self, worker: Worker, reason: str) -> None:
        worker.forsake()
        self._tell("a worker has ended", f"worker {worker.number}, and the streams that it carried: {reason}")
        for hear in self.lost:
            hear(worker)

    def _tell(self, what: str, reason: str) -> None:
        log.error(what, reason=reason)
        if self._told is not None:
            self._told(what, reason)

"""Workers: calls into their threads, and the effects of one that ends or does not answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.links import make_link
from tests.support.waiting import until
from tunnel.errors import RefusedError
from tunnel.relay import workers as module
from tunnel.relay.workers import Worker, WorkerError, Workers

Told = list[tuple[str, str]]


@pytest.fixture
def told() -> Told:
    """The reported incidents."""
    return []


@pytest.fixture
async def workers(told: Told) -> AsyncIterator[Workers]:
    """Three workers: the test's own loop, and two threads."""
    found = Workers(3, lambda what, reason: told.append((what, reason)))
    await found.start()
    yield found
    await found.stop()


async def thread() -> int:
    return threading.get_ident()


async def refuse() -> None:
    raise RefusedError("no")


async def die() -> None:
    """Raise what no exception handler of a loop catches."""
    raise SystemExit("a fault")


async def hang(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  this is what the test is about


async def test_all_but_the_first_have_their_own_thread(workers: Workers) -> None:
    found = [await worker.call(thread) for worker in workers.all]
    assert found[0] == threading.get_ident()
    assert len(set(found)) == 3
    assert len(workers) == 3
    assert workers.main is workers.all[0]


async def test_one_worker_needs_no_thread(told: Told) -> None:
    alone, before = Workers(1), threading.active_count()
    await alone.start()
    assert await alone.main.call(thread) == threading.get_ident()
    assert threading.active_count() == before
    await alone.stop()


async def test_exceptions_are_raised_in_the_caller(workers: Workers) -> None:
    for worker in workers.all[:2]:
        with pytest.raises(RefusedError, match="no"):
            await worker.call(refuse)


async def test_work_continues_when_its_caller_is_cancelled(workers: Workers) -> None:
    """It may already own a socket."""
    done = threading.Event()

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.set()

    task = asyncio.create_task(workers.all[1].call(work))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(done.wait, 60)


async def test_sent_work_is_done_and_its_failure_ignored(workers: Workers) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(threading.get_ident())
        raise RefusedError("ignored")

    workers.all[1].send(work)
    await until(lambda: done, "for the worker")
    await until(lambda: not workers.all[1]._sent, "for the end of it")


async def test_worker_stops_after_pending_sends() -> None:
    """A session that has just been ended must send GOAWAY."""
    workers = Workers(2)
    await workers.start()
    done = []

    async def say_goodbye() -> None:
        await asyncio.sleep(0.2)
        done.append(threading.get_ident())

    workers.all[1].send(say_goodbye)
    await workers.stop()
    assert len(done) == 1


async def test_worker_that_ends_fails_pending_calls_and_is_reported(workers: Workers, told: Told) -> None:
    lost: list[Worker] = []
    workers.lost.append(lost.append)
    first, second = workers.all[1:]
    waiting = asyncio.create_task(first.call(asyncio.sleep, 3600))
    await asyncio.sleep(0.01)
    with pytest.raises(WorkerError, match="worker 1 of this daemon has ended"):
        await first.call(die)
    with pytest.raises(WorkerError):
        await waiting
    await until(lambda: lost, "for the report")
    assert lost == [first]
    [(what, reason)] = told
    assert what == "a worker has ended"
    assert reason == "worker 1 and its streams: SystemExit('a fault')"
    with pytest.raises(WorkerError):
        await first.call(thread)
    assert workers.fit == [workers.main, second]
    assert [each["state"] for each in workers.facts()] == ["serving", "ended", "serving"]
    assert await second.call(thread) != threading.get_ident()


async def test_links_of_a_worker_that_ends_are_ended(workers: Workers) -> None:
    worker, ended = workers.all[1], list[str]()

    async def carry() -> None:
        link = make_link("hosta", "hostb")
        link.end = lambda code, reason, session=None: ended.append(f"{code.name}: {reason}")  # type: ignore[method-assign]
        worker.links[link] = None

    await worker.call(carry)
    with pytest.raises(WorkerError):
        await worker.call(die)
    await until(lambda: ended, "for the end of the link")
    assert ended == ["INTERNAL: worker 1 on hosta has ended: SystemExit('a fault')"]
    assert not worker.links


async def test_exception_in_a_callback_does_not_end_the_worker(workers: Workers, told: Told) -> None:
    worker = workers.all[1]

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: None)
        loop.call_soon(lambda: 1 // 0)

    await worker.call(work)
    assert await worker.call(thread) != threading.get_ident()
    assert not told


async def test_unresponsive_worker_is_reported_and_skipped(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT", 0.02)
    monkeypatch.setattr(module, "SILENT", 0.2)
    workers = Workers(2, lambda what, reason: told.append((what, reason)))
    await workers.start()
    worker = workers.all[1]
    hanging = asyncio.create_task(worker.call(hang, 1.0))
    await until(lambda: told, "for the report")
    assert told[0] == ("a worker does not answer", "worker 1: no heartbeat for 0 s")
    assert workers.fit == [workers.main]
    assert workers.facts()[1]["state"] == "does not answer"
    await hanging
    await until(lambda: worker.answers, "for it to answer again")
    assert len(told) == 1
    await workers.stop()

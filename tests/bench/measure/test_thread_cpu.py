"""CPU time of threads, read from outside."""

from __future__ import annotations

import os
import threading

from tunnel.bench.lab.waiting import until
from tunnel.bench.measure.thread_cpu import ThreadTimes, threads_of, used


def test_threads_are_measured_separately() -> None:
    stop, busy = threading.Event(), list[int]()

    def work() -> None:
        busy.append(threading.get_native_id())
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    before = threads_of(os.getpid())
    thread.start()
    until(
        lambda: busy and threads_of(os.getpid()).get(busy[0], ThreadTimes(0, 0)).user >= 0.2, "for its time"
    )
    after = threads_of(os.getpid())
    stop.set()
    thread.join()
    first = used(before, after)[0]
    assert first == after[busy[0]]
    assert first.user >= 0.2
    assert threading.get_native_id() in after


def test_the_time_used_is_the_difference() -> None:
    before = {1: ThreadTimes(1.0, 2.0), 2: ThreadTimes(5.0, 5.0)}
    after = {1: ThreadTimes(1.5, 4.0), 2: ThreadTimes(5.0, 5.5), 3: ThreadTimes(1.0, 0.0)}
    found = used(before, after)
    assert found == [ThreadTimes(0.5, 2.0), ThreadTimes(1.0, 0.0), ThreadTimes(0.0, 0.5)]
    assert found[0].total == 2.5


def test_only_existing_threads_are_read() -> None:
    assert os.getpid() in threads_of(os.getpid())

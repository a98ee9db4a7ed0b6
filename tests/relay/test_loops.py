"""From one thread's loop to another's."""

from __future__ import annotations

import asyncio
import threading

from tests.support.waiting import until
from tunnel.relay.loops import post


async def test_what_is_for_the_loop_that_runs_is_done_at_once() -> None:
    done: list[str] = []
    post(asyncio.get_running_loop(), done.append, "now")
    assert done == ["now"]


async def test_what_is_for_another_loop_is_done_in_its_thread() -> None:
    loop, done = asyncio.new_event_loop(), list[int]()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    post(loop, lambda: done.append(threading.get_ident()))
    await until(lambda: done, "for the other thread")
    assert done == [thread.ident]
    post(loop, loop.stop)
    thread.join()
    loop.close()


async def test_a_thread_without_a_loop_may_post_too() -> None:
    here, done = asyncio.get_running_loop(), list[int]()
    await asyncio.to_thread(post, here, lambda: done.append(threading.get_ident()))
    await until(lambda: done, "for this thread")
    assert done == [threading.get_ident()]


async def test_nothing_happens_in_a_loop_that_has_ended() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    post(loop, print, "never")

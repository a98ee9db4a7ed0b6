"""Calls between the loops of threads."""

from __future__ import annotations

import asyncio
import threading

from tests.support.waiting import until
from tunnel.relay.loops import post


async def test_call_in_the_running_loop_is_immediate() -> None:
    done: list[str] = []
    post(asyncio.get_running_loop(), done.append, "now")
    assert done == ["now"]


async def test_call_in_another_loop_runs_in_its_thread() -> None:
    loop, done = asyncio.new_event_loop(), list[int]()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    post(loop, lambda: done.append(threading.get_ident()))
    await until(lambda: done, "for the other thread")
    assert done == [thread.ident]
    post(loop, loop.stop)
    thread.join()
    loop.close()


async def test_thread_without_a_loop_may_post() -> None:
    here, done = asyncio.get_running_loop(), list[int]()
    await asyncio.to_thread(post, here, lambda: done.append(threading.get_ident()))
    await until(lambda: done, "for this thread")
    assert done == [threading.get_ident()]


async def test_call_in_a_closed_loop_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    post(loop, print, "never")

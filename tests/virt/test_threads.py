"""Blocking calls in threads: results, exceptions, and calls that never return."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tunnel.virt.threads import in_thread


async def test_call_runs_in_another_thread() -> None:
    assert await in_thread("ask", threading.get_ident) != threading.get_ident()


async def test_exception_is_propagated() -> None:
    def fail() -> None:
        raise LookupError("failed")

    with pytest.raises(LookupError, match="failed"):
        await in_thread("ask", fail)


async def test_hanging_call_times_out_and_its_late_result_is_dropped() -> None:
    release, ended = threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(20)
        ended.set()

    with pytest.raises(TimeoutError):
        await in_thread("hang", hang, within=0.02)
    release.set()
    assert await in_thread("wait", lambda: ended.wait(20))


def test_hanging_call_does_not_keep_the_program_from_exiting() -> None:
    release = threading.Event()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await in_thread("hang for ever", lambda: release.wait(20), within=0.02)

    asyncio.run(give_up())
    (left,) = [thread for thread in threading.enumerate() if thread.name == "hang for ever"]
    assert left.daemon
    release.set()  # the loop has ended by now
    left.join(20)
    assert not left.is_alive()

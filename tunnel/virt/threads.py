"""Calls that block, such as libvirt's: made in a thread of their own, so that the event loop goes on.

The threads are daemons. A call whose answer never comes must not keep the program from ending, which the
event loop's own executor would: ``asyncio.run`` waits for it without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(name: str, call: Callable[[], T], within: float | None = None) -> T:
    """Return what ``call()`` returns; what it raises comes through.

    Raises TimeoutError after ``within`` seconds. The call then goes on unheard, as it does when cancelled.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # without an error there is a T

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  it is raised where the answer is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    async with asyncio.timeout(within):
        return await answer

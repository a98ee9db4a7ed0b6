"""Waiting by asking: the first answer ends it, and so does the clock."""

from __future__ import annotations

import asyncio

import pytest

from tunnel.virt.polling import until


async def test_first_answer_ends_the_waiting() -> None:
    answers = iter([None, None, 0, 1])

    async def probe() -> int | None:
        return next(answers)

    assert await until(probe, within=10, every=0.001) == 0  # an answer that is false is an answer
    assert next(answers) == 1


async def test_waiting_ends_in_time_although_a_probe_hangs() -> None:
    async def probe() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await until(probe, within=0.05, every=0.001)


async def test_without_an_answer_the_time_is_up() -> None:
    async def probe() -> None:
        return None

    with pytest.raises(TimeoutError):
        await until(probe, within=0.05, every=0.001)


async def test_what_the_probe_raises_comes_through() -> None:
    async def probe() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await until(probe, within=10, every=0.001)

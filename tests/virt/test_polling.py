"""Polling ends with the first result or the timeout."""

from __future__ import annotations

import asyncio

import pytest

from tunnel.virt.polling import until


async def test_first_result_ends_the_polling() -> None:
    answers = iter([None, None, 0, 1])

    async def probe() -> int | None:
        return next(answers)

    assert await until(probe, within=10, every=0.001) == 0  # a false result is a result
    assert next(answers) == 1


async def test_hanging_probe_times_out() -> None:
    async def probe() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await until(probe, within=0.05, every=0.001)


async def test_no_result_times_out() -> None:
    async def probe() -> None:
        return None

    with pytest.raises(TimeoutError):
        await until(probe, within=0.05, every=0.001)


async def test_exception_of_the_probe_is_propagated() -> None:
    async def probe() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await until(probe, within=10, every=0.001)

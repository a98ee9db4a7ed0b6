"""Polling ends with the first true result or the timeout."""

from __future__ import annotations

import asyncio

import pytest

from tunnel.virt.polling import until


async def test_first_true_result_ends_the_polling() -> None:
    answers = iter([None, 0, 1, 2])

    async def probe() -> int | None:
        return next(answers)

    assert await until(probe, within=10, every=0.001) == 1
    assert await until(lambda: next(answers), within=10, every=0.001) == 2


async def test_hanging_probe_times_out() -> None:
    async def probe() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await until(probe, within=0.05, every=0.001)


async def test_no_result_times_out() -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0\.05 s waiting for a miracle"):
        await until(lambda: None, "for a miracle", within=0.05, every=0.001)


@pytest.mark.parametrize("error", [LookupError, TimeoutError])
async def test_exception_of_the_probe_is_propagated(error: type[Exception]) -> None:
    async def probe() -> None:
        raise error("gone")

    with pytest.raises(error, match="gone"):
        await until(probe, within=10, every=0.001)

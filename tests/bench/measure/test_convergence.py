"""The search finds any limit, with no more migrations than ``most_probes``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunnel.bench.measure.convergence import RateSteps, Search

STEP = 4096


def find(grid: RateSteps, limit: int) -> tuple[int, list[int]]:
    """Search when exactly the rates up to ``limit`` converge; return the result, and the tried rates."""
    search, tried = Search(grid), list[int]()
    while (rate := search.next_rate) is not None:
        tried.append(rate)
        search.tried(rate, converged=rate <= limit)
    return search.limit, tried


@given(size=st.integers(1, 200), limit=st.integers(0, 300))
def test_any_limit_is_found_within_a_step(size: int, limit: int) -> None:
    grid = RateSteps(STEP, size * STEP)
    found, tried = find(grid, limit * STEP)
    assert found == min(limit, size) * STEP
    assert len(tried) <= grid.most_probes
    assert len(set(tried)) == len(tried)
    assert all(0 < rate <= grid.highest and rate % STEP == 0 for rate in tried)


def test_the_first_rate_is_in_the_middle_and_the_bounds_are_reached() -> None:
    grid = RateSteps(32, 1024)
    assert find(grid, 0) == (0, [512, 256, 128, 64, 32])
    assert find(grid, 5000)[0] == 1024
    assert grid.most_probes == 6


def test_rates_between_steps_are_rounded_down() -> None:
    assert find(RateSteps(100, 1000), 649)[0] == 600


def test_a_highest_rate_that_is_not_a_multiple_is_not_exceeded() -> None:
    assert find(RateSteps(300, 1000), 5000)[0] == 900

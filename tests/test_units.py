"""Sizes and durations: what is accepted, and that a number without its unit is not guessed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("256MiB", 2**28),
        ("64 KiB", 65536),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        ("9B", 9),
        ("7", 7),
        (0, 0),
        (7, 7),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value", ["256MB", "MiB", "-1KiB", "1KiBs", "", "\u0661KiB", "1MiB\n", -1, 1.5, True, None, [1]]
)
def test_other_sizes_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="unit"):
        parse_size(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30s", 30.0), ("500ms", 0.5), ("2min", 120.0), ("1.5h", 5400.0), ("0s", 0.0), ("0", 0.0), (0, 0.0)],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("30", "write 30s"), (30, "number with a unit"), ("30m", "use one of"), (False, "unit")],
)
def test_other_durations_are_refused(value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_duration(value)


@given(st.integers(0, 2**50))
def test_a_size_survives_its_text(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_sizes_and_durations_are_short() -> None:
    assert [format_size(size) for size in (0, 1023, 65536, 3 * 2**29)] == ["0B", "1023B", "64KiB", "1536MiB"]
    assert [format_duration(seconds) for seconds in (0.5, 30.0)] == ["0.5s", "30s"]
    assert parse_duration(format_duration(0.5)) == 0.5

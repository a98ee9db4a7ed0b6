"""Rates and durations on the command line."""

from __future__ import annotations

import pytest
import typer

from tunnel.cli.options import duration, rate


@pytest.mark.parametrize("text", ["8MiB", "8MiB/s", "8388608", 8 << 20])
def test_rate_suffix_is_optional(text: str | int) -> None:
    assert rate(text) == 8 << 20


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("2min", 120.0), ("500ms", 0.5)])
def test_duration_needs_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("parse", "text"), [(rate, "fast"), (rate, "1MB/s"), (duration, "90"), (duration, "x")]
)
def test_invalid_value_is_a_usage_error(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(typer.BadParameter):
        parse(text)

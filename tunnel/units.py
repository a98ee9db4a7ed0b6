"""Sizes and durations as operators write them: ``256MiB``, ``64KiB``, ``30s``, ``500ms``, ``2min``."""

from __future__ import annotations

import re
from collections.abc import Mapping

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
"""Bytes."""

SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 2**40}
"""Bytes per unit. Powers of ten are left out: for memory they are nearly always a mistake."""

DURATIONS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
"""Seconds per unit."""

_QUANTITY = re.compile(r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?) ?(?P<unit>[A-Za-z]*)")


def parse_size(value: object) -> int:
    """Parse a size in bytes: a number with a unit, or a plain number of bytes. Raises ValueError."""
    if type(value) is int and value >= 0:
        return value
    amount, unit = _split(value, SIZES, "64KiB or 256MiB")
    return round(amount * SIZES[unit or "B"])


def parse_duration(value: object) -> float:
    """Parse a duration in seconds. Only 0 may have no unit. Raises ValueError."""
    if type(value) is int and value == 0:
        return 0.0
    amount, unit = _split(value, DURATIONS, "500ms, 30s or 2min")
    if not unit and amount:
        raise ValueError(f"{value!r} has no unit: write {value}s for seconds")
    return amount * DURATIONS[unit or "s"]


def format_size(size: int) -> str:
    """Return ``size`` in the largest unit that keeps it a whole number; ``parse_size`` reads it back."""
    unit = next(unit for unit, factor in reversed(SIZES.items()) if size % factor == 0)
    return f"{size // SIZES[unit]}{unit}" if size else "0B"


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as text; ``parse_duration`` reads it back."""
    return f"{seconds:g}s"


def _split(value: object, units: Mapping[str, float], examples: str) -> tuple[float, str]:
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is not a number with a unit, such as {examples}")
    if found["unit"] and found["unit"] not in units:
        raise ValueError(f"{value!r} has an unknown unit: use one of {', '.join(units)}")
    return float(found["number"]), found["unit"]
